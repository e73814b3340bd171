"""Errors of loading: why a model or a version cannot be served.

    LoadError               error           a model or version cannot be served; the code labels inference_model_refused
    ├── FilesError          files           a file is missing, unreadable, or not the one that the manifest describes
    │   └── FilesUnreadable files           reading failed with an input/output error, which may pass
    ├── ConfigurationError  configuration   config.pbtxt is invalid, not supported, or contradicts the graph
    ├── GraphError          graph           ONNX Runtime cannot open or run the graph
    ├── GoldenMismatch      golden          an answer differs from the golden answer
    └── DeviceUnavailable   device          the requested device is missing

Callers of gRPC never see one, so the module needs no gRPC: the training job, which applies the service's rule to what
it publishes, installs without it. Not here: the errors that callers see (errors.py).
"""

from typing import ClassVar

from service.core.texts import bounded

# Of the text, which goes to the log, to the output of `check` and, shorter, to callers.
MAX_LOAD_TEXT = 4096


class LoadError(Exception):
    """A model or version cannot be served; the message says what was expected, what was found and where.

    It is one line of at most MAX_LOAD_TEXT bytes, whatever the files hold that it quotes.
    """

    code: ClassVar[str] = "error"

    def __init__(self, text: str) -> None:
        super().__init__(bounded(text, MAX_LOAD_TEXT))


class FilesError(LoadError):
    """A file is missing or unreadable, or is not the one that the manifest describes."""

    code = "files"


class FilesUnreadable(FilesError):
    """Reading failed with an input/output error, such as a missing permission, which may pass by itself."""


class ConfigurationError(LoadError):
    """config.pbtxt is invalid, asks for what the service does not support, or contradicts the graph."""

    code = "configuration"


class GraphError(LoadError):
    """ONNX Runtime cannot open the graph, or cannot run it."""

    code = "graph"


class GoldenMismatch(LoadError):
    """An answer differs from the golden answer by more than the tolerance."""

    code = "golden"


class DeviceUnavailable(LoadError):
    """The requested device is missing; the message says what to install or which flag to change."""

    code = "device"
