"""Errors that end a training job. The message says what is wrong and what to do.

    TrainingError        exit status 1
    ├── InvalidSetting   a setting is not allowed; exit status 2
    │   ├── UnknownNetwork  no network has this name
    │   └── ImpossibleSize  a network's layers do not fit its images
    ├── DataError        a data set is missing, truncated, or not what its name says
    ├── OutOfMemory      the device has too little memory
    ├── ParityError      ONNX Runtime and PyTorch disagree
    ├── FileMismatch     a test file gets another label than its image did
    ├── GateError        the test accuracy is below the accuracy gate
    ├── NotAccepted      the service would refuse the version, or the model's folder has versions of other classes
    ├── CannotWrite      a folder that the run will write into cannot be written
    └── Interrupted      a signal stopped the job, which can be resumed; exit status 128 plus the signal's number

The command prints the message without a traceback.
"""

from typing import ClassVar


class TrainingError(Exception):
    """Base of every error that the command reports by its message alone."""

    exit_status: ClassVar[int] = 1


class InvalidSetting(TrainingError):
    """A setting is not allowed, which shows only with the network or the data at hand."""

    exit_status = 2


class UnknownNetwork(InvalidSetting):
    """No network has this name."""


class ImpossibleSize(InvalidSetting):
    """A window is larger than what it moves over, so a network cannot be built."""


class DataError(TrainingError):
    """A data set is missing, truncated, or not what its name says."""


class OutOfMemory(TrainingError):
    """The device has too little memory for these settings."""


class ParityError(TrainingError):
    """The exported graph and the trained network disagree; nothing is published."""


class FileMismatch(TrainingError):
    """A test file, sent as to the service, gets another label than its image did; nothing is published."""


class GateError(TrainingError):
    """The test accuracy is below the accuracy gate; nothing is published."""


class NotAccepted(TrainingError):
    """The service would refuse the version, or the model's folder has versions of other classes."""


class CannotWrite(TrainingError):
    """A folder that the run will write into cannot be written; nothing is trained."""


class Interrupted(TrainingError):
    """A signal stopped the job; `--resume` continues it."""
