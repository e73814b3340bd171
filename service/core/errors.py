"""Errors of requests that layers share: with gRPC status, text and details as callers see them.

    ServiceError
    ├── InvalidArgument     INVALID_ARGUMENT    the request is invalid: which field, what was expected, what came
    ├── NotFound            NOT_FOUND           no such model or version
    ├── NotReady            UNAVAILABLE         the version exists but cannot serve now
    ├── Draining            UNAVAILABLE         the server is stopping; use another
    ├── MessageTooLarge     RESOURCE_EXHAUSTED  the message is over the limit
    ├── QueueFull           RESOURCE_EXHAUSTED  the queue has no room; when to try again
    ├── MemoryShort         RESOURCE_EXHAUSTED  memory is short, and the request arrives slowly; when to try again
    ├── TooManyChanges      RESOURCE_EXHAUSTED  too many calls of model control wait; when to try again
    ├── DeadlineExceeded    DEADLINE_EXCEEDED   the deadline passed, or cannot be met, in the queue
    ├── Unauthenticated     UNAUTHENTICATED     the call has no valid token
    ├── PermissionDenied    PERMISSION_DENIED   the token lacks a right
    ├── Unimplemented       UNIMPLEMENTED       the method or parameter is not supported
    ├── NoMessage           INTERNAL            the call ended without a message
    ├── InvalidTimeout      INTERNAL            the metadata grpc-timeout has another form than gRPC's
    └── EngineFailed        INTERNAL            a fixed text, and an error id that finds the cause in the log

    EngineLost              a run failed, and every later run on that engine will fail

The text of any other exception never reaches a caller: servers answer it as EngineFailed. An error's text is cut
when the error is made, so that the text and its details together stay within MAX_METADATA_BYTES. Not here: why a model
or a version cannot be served (load_errors.py).
"""

import secrets
from typing import ClassVar

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import BadRequest, RetryInfo
from google.rpc.status_pb2 import Status

from service.core.texts import bounded, quoted

# The trailing metadata that carries rich error details (https://grpc.io/docs/guides/error/).
DETAILS_KEY = "grpc-status-details-bin"
# Of grpc-message and the details, as sent: percent-encoded and in base64. Clients take 8 KiB of metadata by default.
MAX_METADATA_BYTES = 1024
# Of the text of an error with details, which repeat the text once or twice, and of the field that they name.
MAX_TEXT_WITH_DETAILS, MAX_FIELD = 224, 64


class ServiceError(Exception):
    """Base of the errors that callers see."""

    code: ClassVar[grpc.StatusCode]
    max_text: ClassVar[int] = MAX_METADATA_BYTES  # as grpc-message, in bytes

    def __init__(self, text: str) -> None:
        super().__init__(bounded(text, self.max_text))

    @property
    def message(self) -> str:
        """The text that the caller sees."""
        return str(self)

    def detail(self) -> Message | None:
        """The error's google.rpc detail; None if it has none."""
        return None

    def trailing_metadata(self) -> list[tuple[str, bytes]]:
        """The trailing metadata that carries the detail."""
        detail = self.detail()
        if detail is None:
            return []
        status = Status(code=self.code.value[0], message=self.message)
        status.details.add().Pack(detail)
        return [(DETAILS_KEY, status.SerializeToString())]


class InvalidArgument(ServiceError):
    """The request breaks the model's contract at `field`."""

    code = grpc.StatusCode.INVALID_ARGUMENT
    max_text = MAX_TEXT_WITH_DETAILS

    def __init__(self, field: str, description: str) -> None:
        super().__init__(description)
        self.field = bounded(field, MAX_FIELD)

    def detail(self) -> Message | None:
        """BadRequest, with the field and the text; None if the field is not known."""
        if not self.field:
            return None
        detail: Message = BadRequest(
            field_violations=[BadRequest.FieldViolation(field=self.field, description=self.message)]
        )
        return detail


class NotFound(ServiceError):
    """The model or the version does not exist."""

    code = grpc.StatusCode.NOT_FOUND


class NotReady(ServiceError):
    """The version exists but cannot serve: it is loading, failed or unloading."""

    code = grpc.StatusCode.UNAVAILABLE


class _Retryable(ServiceError):
    """An error that says when to try again."""

    max_text = MAX_TEXT_WITH_DETAILS

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after

    def detail(self) -> Message:
        """RetryInfo, with the delay before the next attempt."""
        delay = Duration()
        delay.FromNanoseconds(int(self.retry_after * 1e9))
        detail: Message = RetryInfo(retry_delay=delay)
        return detail


class Draining(_Retryable):
    """The server answers pending requests and accepts no new ones."""

    code = grpc.StatusCode.UNAVAILABLE

    def __init__(self) -> None:
        super().__init__("the server is draining: it answers pending requests and accepts no new ones", 1.0)


class QueueFull(_Retryable):
    """The queue has no room for the request."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED

    def __init__(self, waiting: int, limit: int, retry_after: float, unit: str = "rows") -> None:
        super().__init__(f"the queue is full: {waiting} {unit} wait, the limit is {limit}", retry_after)


class MemoryShort(_Retryable):
    """Memory is short, and the request arrives slowly."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED

    def __init__(self) -> None:
        super().__init__("memory is short: the server refuses requests that arrive slowly", 1.0)


class TooManyChanges(_Retryable):
    """As many calls of model control wait as may."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED

    def __init__(self, limit: int) -> None:
        super().__init__(f"{limit} calls that load or unload models wait already, the limit is {limit}", 1.0)


class MessageTooLarge(ServiceError):
    """The request is larger than --max-message-bytes."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(f"the message has {size} bytes, the limit is {limit} (--max-message-bytes)")


class DeadlineExceeded(ServiceError):
    """The deadline passed while the request waited in the queue, or would pass there."""

    code = grpc.StatusCode.DEADLINE_EXCEEDED


class Unauthenticated(ServiceError):
    """The call's token is missing, unknown or expired; the message does not say which."""

    code = grpc.StatusCode.UNAUTHENTICATED

    def __init__(self) -> None:
        super().__init__("the call needs a valid token in its metadata: authorization: Bearer TOKEN")


class PermissionDenied(ServiceError):
    """The token is valid but lacks the right."""

    code = grpc.StatusCode.PERMISSION_DENIED

    def __init__(self, right: str) -> None:
        super().__init__(f"the token lacks the right {quoted(right)}")


class Unimplemented(ServiceError):
    """The server does not support the method or parameter."""

    code = grpc.StatusCode.UNIMPLEMENTED


class NoMessage(ServiceError):
    """The call ended without a message."""

    code = grpc.StatusCode.INTERNAL

    def __init__(self) -> None:
        super().__init__("the call ended without a request message")


class InvalidTimeout(ServiceError):
    """The metadata grpc-timeout has another form than gRPC's. Status and text are those of gRPC's core."""

    code = grpc.StatusCode.INTERNAL

    def __init__(self) -> None:
        super().__init__("Error parsing 'grpc-timeout' metadata")


class EngineFailed(ServiceError):
    """A failure that the caller did not cause; the log has its cause under `error_id`."""

    code = grpc.StatusCode.INTERNAL

    def __init__(self) -> None:
        self.error_id = secrets.token_hex(6)
        super().__init__(
            f"the request could not be computed; the server's log has the cause under error id {self.error_id}"
        )


class EngineLost(Exception):
    """A run failed, and every later run on that engine will fail; the message says why."""
