"""Every error of the service: those that callers see, with gRPC status, text and details, and those of loading.

    ServiceError
    ├── InvalidArgument     INVALID_ARGUMENT    the request is wrong: which field, what was expected, what came
    ├── NotFound            NOT_FOUND           no such model or version
    ├── NotReady            UNAVAILABLE         the version exists but cannot answer now
    ├── Draining            UNAVAILABLE         the server is stopping; try another
    ├── MessageTooLarge     RESOURCE_EXHAUSTED  the message is over the limit
    ├── QueueFull           RESOURCE_EXHAUSTED  too many rows wait; when to try again
    ├── DeadlineExceeded    DEADLINE_EXCEEDED   the deadline passed, or cannot be met, in the queue
    ├── Unauthenticated     UNAUTHENTICATED     no valid credential came with the call
    ├── PermissionDenied    PERMISSION_DENIED   the credential lacks a right
    ├── Unimplemented       UNIMPLEMENTED       not offered
    └── EngineFailed        INTERNAL            a fixed text and an id that stands in the log

    LoadError               a model or version cannot be served; `code` labels inference_model_refused
    ├── FilesError          files           a file is missing, unreadable, or not the one that the manifest describes
    ├── ConfigurationError  configuration   config.pbtxt is invalid, not supported, or contradicts the graph
    ├── GraphError          graph           ONNX Runtime cannot open or run the graph
    ├── GoldenMismatch      golden          an answer differs from the golden answer
    └── DeviceUnavailable   device          the requested device is missing
    EngineLost              a run failed, and so will every later run on that engine

The text of any other exception never reaches a caller: servers answer it as EngineFailed.
"""

import secrets
from typing import ClassVar

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import BadRequest, RetryInfo
from google.rpc.status_pb2 import Status

# Where rich error details travel (https://grpc.io/docs/guides/error/).
DETAILS_KEY = "grpc-status-details-bin"


class ServiceError(Exception):
    """Base of every error that is told to a caller."""

    code: ClassVar[grpc.StatusCode]

    @property
    def message(self) -> str:
        """What the caller reads."""
        return str(self)

    def detail(self) -> Message | None:
        """The google.rpc detail that goes with the error, if any."""
        return None

    def trailing_metadata(self) -> list[tuple[str, bytes]]:
        """The metadata that carries the detail."""
        detail = self.detail()
        if detail is None:
            return []
        status = Status(code=self.code.value[0], message=self.message)
        status.details.add().Pack(detail)
        return [(DETAILS_KEY, status.SerializeToString())]


class InvalidArgument(ServiceError):
    """The request breaks the model's contract at `field`."""

    code = grpc.StatusCode.INVALID_ARGUMENT

    def __init__(self, field: str, description: str) -> None:
        super().__init__(description)
        self.field = field

    def detail(self) -> Message | None:
        """The field and what is wrong with it; nothing where no field could be read."""
        if not self.field:
            return None
        detail: Message = BadRequest(
            field_violations=[BadRequest.FieldViolation(field=self.field, description=self.message)]
        )
        return detail


class NotFound(ServiceError):
    """No such model, or no such version of it."""

    code = grpc.StatusCode.NOT_FOUND


class NotReady(ServiceError):
    """The version is known but cannot answer: loading, failed or going away."""

    code = grpc.StatusCode.UNAVAILABLE


class _Retryable(ServiceError):
    """An error that says when to try again."""

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after

    def detail(self) -> Message:
        """RetryInfo, with the delay that is worth waiting."""
        delay = Duration()
        delay.FromNanoseconds(int(self.retry_after * 1e9))
        detail: Message = RetryInfo(retry_delay=delay)
        return detail


class Draining(_Retryable):
    """The server finishes what it has and takes nothing new."""

    code = grpc.StatusCode.UNAVAILABLE

    def __init__(self) -> None:
        super().__init__("the server is draining: it finishes what it has and takes no new requests", 1.0)


class QueueFull(_Retryable):
    """As many rows wait as may."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED

    def __init__(self, waiting: int, limit: int, retry_after: float) -> None:
        super().__init__(f"the queue is full: {waiting} rows wait, the limit is {limit}", retry_after)


class MessageTooLarge(ServiceError):
    """The request is larger than the server takes."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(f"the message has {size} bytes, the limit is {limit} (--max-message-bytes)")


class DeadlineExceeded(ServiceError):
    """The caller's deadline passed while the request waited, or would."""

    code = grpc.StatusCode.DEADLINE_EXCEEDED


class Unauthenticated(ServiceError):
    """No credential came, or none that is known and has not ended; which of these is nobody's business."""

    code = grpc.StatusCode.UNAUTHENTICATED

    def __init__(self) -> None:
        super().__init__("the call needs a valid credential: authorization: Bearer TOKEN")


class PermissionDenied(ServiceError):
    """The credential is good, but not for this."""

    code = grpc.StatusCode.PERMISSION_DENIED

    def __init__(self, right: str) -> None:
        super().__init__(f"the credential lacks the right {right!r}")


class Unimplemented(ServiceError):
    """A method or parameter that this server does not offer."""

    code = grpc.StatusCode.UNIMPLEMENTED


class EngineFailed(ServiceError):
    """Something broke that is not the caller's fault; `error_id` finds it in the log."""

    code = grpc.StatusCode.INTERNAL

    def __init__(self) -> None:
        self.error_id = secrets.token_hex(6)
        super().__init__(f"the request could not be computed; error id {self.error_id} stands in the server's log")


class LoadError(Exception):
    """A model or version cannot be served; the message says what was expected, what was found and where."""

    code: ClassVar[str] = "error"


class FilesError(LoadError):
    """A file is missing or unreadable, or is not the one that the manifest describes."""

    code = "files"


class ConfigurationError(LoadError):
    """config.pbtxt is invalid, asks for what the service does not do, or contradicts the graph."""

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


class EngineLost(Exception):
    """A run failed in a way that no later run can recover from; the message says why."""
