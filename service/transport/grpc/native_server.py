"""The native server: ModelInfer on pygrpc-native, whose HTTP/2 and gRPC run in Rust, outside the GIL.

Owns one thread that takes calls in bursts, with their deadlines and cancellations, and lends itself to the batcher
after each burst. pygrpc-native passes every other method on to the aio server at `fallback`, a Unix socket. Not here:
those methods (aio_server.py), decoding and queueing (inference/handler.py).
"""

import inspect
import os
import re
import threading
import time
from collections.abc import Callable
from typing import Any

import structlog
from pygrpc_native import EVENT_CANCEL, NativeGrpcFront

from service.core.errors import EngineFailed, ServiceError
from service.inference.handler import InferenceHandler, PendingInfer
from service.transport.grpc.timeouts import deadline_at, parse_timeout

MODEL_INFER = "/inference.GRPCInferenceService/ModelInfer"
# Calls and cancellations in one burst, at most; a burst takes the GIL once.
MAX_BURST = 256
# If the last wait for calls was shorter than RECENT_SECONDS, poll for POLL_SECONDS before blocking. Waking a blocked
# thread is slow: on a virtual machine it took longer than answering a request.
POLL_SECONDS, RECENT_SECONDS = 100e-6, 500e-6

# A call's metadata, the caller's address, and the seconds left until its deadline.
Details = tuple[tuple[tuple[str, str | bytes], ...], str, float | None] | None
# pygrpc-native's event: kind, call id, method id, the request's bytes, the first grpc-timeout header or, without one,
# the caller's address, and details.
Event = tuple[int, int, int, bytes | None, bytes | str | None, Details]

log = structlog.get_logger(__name__)


def message_bound(front: Callable[..., object]) -> str:
    """The parameter that bounds what is buffered of a message, such as max_message_bytes; "" if there is none.

    pygrpc-native 0.5 has none, and no version that would has been seen: its parameters are asked, not its number.
    """
    try:
        names = inspect.signature(front).parameters
    except (TypeError, ValueError):  # it does not tell
        return ""
    bound = re.compile(r"max_(receive_|recv_|request_|decoding_)?(message|request)_(size|bytes|length)")
    return next(filter(bound.fullmatch, names), "")


MESSAGE_BOUND = message_bound(NativeGrpcFront)


class NativeServer:
    """Serves ModelInfer on a TCP address, and passes other methods on to `fallback`.

    Raises:
        OSError: the address is taken or cannot be bound.
    """

    def __init__(
        self,
        address: str,
        handler: InferenceHandler,
        *,
        fallback: str,
        max_message_bytes: int,
        reuse_port: bool = False,
    ) -> None:
        self._handler = handler
        bound: dict[str, Any] = {MESSAGE_BOUND: max_message_bytes} if MESSAGE_BOUND else {}
        self._server = NativeGrpcFront(
            address,
            [(MODEL_INFER, False)],
            call_details=True,
            client_key_metadata="grpc-timeout",  # in place of the caller's address; see _decode
            io_threads=1,
            reuse_port=reuse_port,
            **bound,
        )
        self._server.set_fallback(fallback)
        self.port = self._server.bound_port
        self._pending: dict[int, PendingInfer] = {}
        self._poll_seconds = 0.0  # how long to poll for calls before blocking
        self._thread = threading.Thread(target=self._run, name="native-server", daemon=True)

    def start(self) -> None:
        """Start to serve."""
        self._server.start()
        self._thread.start()

    def close(self, seconds: float) -> None:
        """Stop at once. Pending calls get UNAVAILABLE, so drain first. Waits at most `seconds` for a batch to end."""
        self._server.close()
        self._thread.join(seconds)

    def _run(self) -> None:
        while (events := self._next(block=True)) is not None:
            self._take(events, self._receive)

    def _take(self, events: list[Event], receive: Callable[[], bool] | None = None) -> None:
        """Take cancellations, and submit calls that arrived together. With `receive`, this thread may run batches."""
        arrived = time.monotonic()
        burst: list[PendingInfer] = []
        for kind, call_id, _, payload, timeout, details in events:
            if kind == EVENT_CANCEL:
                if request := self._pending.pop(call_id, None):
                    self._cancel(request, burst)
            elif payload is not None and (request := self._decode(call_id, payload, arrived, timeout, details)):
                self._pending[call_id] = request
                burst.append(request)
        if burst:
            self._handler.submit_burst(burst, receive)

    def _cancel(self, request: PendingInfer, burst: list[PendingInfer]) -> None:
        """Drop a request that its caller cancelled, from the queue or from the burst in which it arrived too."""
        if request in burst:
            burst.remove(request)
            request.count_cancelled()
        else:
            request.cancel()

    def _receive(self) -> bool:
        """Take the calls that have arrived meanwhile. Returns whether this thread may go on to run batches."""
        events = self._next(block=False)
        if events:
            # Without `receive`: after a reload these calls may be another version's, and run while the old one waits.
            self._take(events)
        return events is not None and self._handler.inline_seconds > 0

    def _next(self, *, block: bool) -> list[Event] | None:
        """The next calls and cancellations; None once the server is closed. Without `block` the list may be empty."""
        take = self._server.recv_batch_details
        events: list[Event] | None = take(MAX_BURST, 0)
        if not block or events or events is None:
            return events
        began = time.monotonic()
        limit = began + self._poll_seconds
        while not events and events is not None and time.monotonic() < limit:
            os.sched_yield()
            events = take(MAX_BURST, 0)
        if not events and events is not None:
            events = take(MAX_BURST, None)
        self._poll_seconds = POLL_SECONDS if time.monotonic() - began < RECENT_SECONDS else 0.0
        return events

    def _decode(
        self, call_id: int, payload: bytes, arrived: float, timeout: bytes | str | None, details: Details
    ) -> PendingInfer | None:
        """Decode a call; None if it failed."""
        seconds_left = details[2] if details else None
        try:
            # pygrpc-native ignores a header that it cannot read, and reads one with a sign.
            if isinstance(timeout, bytes) and (seconds_left is None or timeout.startswith(b"+")):
                seconds_left = parse_timeout(timeout)
            deadline = deadline_at(arrived, seconds_left)
            access = self._handler.authorize(details[0] if details else ())
            return self._handler.decode(payload, self, call_id, arrived=arrived, deadline=deadline, access=access)
        except ServiceError as error:
            self.fail(call_id, error)
        except Exception:  # one call must not end the thread
            failed = EngineFailed()
            log.exception("call failed", method="ModelInfer", error_id=failed.error_id)
            self.fail(call_id, failed)
        return None

    def respond(self, call: int, payload: bytes) -> None:
        """Send the serialised response."""
        self._pending.pop(call, None)
        self._server.respond(call, payload)

    def fail(self, call: int, error: ServiceError) -> None:
        """End the call with the error."""
        self._pending.pop(call, None)
        self._server.fail(call, error.code.value[0], error.message, error.trailing_metadata() or None)
