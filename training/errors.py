"""What can end a training job, each with one line that says what to do.

    TrainingError
    ├── UnknownNetwork no network has the name
    ├── DataError      the data are missing, truncated or not what their name says
    ├── OutOfMemory    the device's memory does not suffice
    ├── ParityError    ONNX Runtime does not answer as torch does
    ├── GateError      the accuracy is below what may be published
    └── Interrupted    a signal asked it to stop; what was done is kept

The command prints the message and exits with status 1, or 128 and the signal's number. A setting that makes no sense
exits with 2 before any work.
"""


class TrainingError(Exception):
    """Base of every error that the job reports by its message alone."""


class UnknownNetwork(TrainingError):
    """A setting that makes no sense, found when the networks are known."""


class DataError(TrainingError):
    """The data set cannot be read as what it claims to be."""


class OutOfMemory(TrainingError):
    """The device has too little memory for these settings."""


class ParityError(TrainingError):
    """The exported graph and the trained network disagree; nothing is published."""


class GateError(TrainingError):
    """The test accuracy is below `--min-accuracy`; nothing is published."""


class Interrupted(TrainingError):
    """The job was asked to stop, and can be continued."""
