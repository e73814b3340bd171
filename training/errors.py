"""What can end a training job, each with one line that says what to do.

    TrainingError
    ├── DataError      the data are missing, truncated or not what their name says
    ├── ParityError    ONNX Runtime does not answer as torch does
    └── GateError      the accuracy is below what may be published

The command prints the message and exits with status 1. A setting that makes no sense exits with 2 before any work.
"""


class TrainingError(Exception):
    """Base of every error that the job reports by its message alone."""


class DataError(TrainingError):
    """The data set cannot be read as what it claims to be."""


class ParityError(TrainingError):
    """The exported graph and the trained network disagree; nothing is published."""


class GateError(TrainingError):
    """The test accuracy is below `--min-accuracy`; nothing is published."""
