"""The fast front: pygrpc-native, whose HTTP/2 and gRPC work runs in Rust outside the GIL.

Owns: one thread that takes calls in bursts, with their deadlines and cancellations, and that it lends to a batcher
after each burst. It serves ModelInfer; all else goes through to the grpcio front on `fallback`, a Unix socket.
"""

import os
import threading
import time

import structlog
from pygrpc_native import EVENT_CANCEL, NativeGrpcFront

from service.batching.batcher import Batcher
from service.core.errors import EngineFailed, ServiceError
from service.inference.handler import InferenceHandler, PendingInfer

MODEL_INFER = "/inference.GRPCInferenceService/ModelInfer"
# Calls taken from the front in one crossing of the GIL.
MAX_BURST = 256
# A thread that sleeps is woken late, above all on a virtual machine, where it took longer than answering a request. So
# the next calls are looked for so long, in seconds, before the thread sleeps, where the last ones came RECENT_SECONDS.
POLL_SECONDS, RECENT_SECONDS = 100e-6, 500e-6

Details = tuple[tuple[tuple[str, str | bytes], ...], str, float | None] | None
Event = tuple[int, int, int, bytes | None, bytes | str | None, Details]

log = structlog.get_logger(__name__)


class NativeServer:
    """The front on a TCP address.

    Raises:
        OSError: the address is taken or cannot be bound.
    """

    def __init__(self, address: str, handler: InferenceHandler, *, fallback: str, reuse_port: bool = False) -> None:
        self._handler = handler
        self._server = NativeGrpcFront(
            address, [(MODEL_INFER, False)], call_details=True, io_threads=1, reuse_port=reuse_port
        )
        self._server.set_fallback(fallback)
        self.port = self._server.bound_port
        self._pending: dict[int, PendingInfer] = {}
        self._poll_seconds = 0.0  # how long to look for calls before sleeping
        self._thread = threading.Thread(target=self._run, name="front", daemon=True)

    def start(self) -> None:
        """Take calls."""
        self._server.start()
        self._thread.start()

    def close(self) -> None:
        """End at once; calls in flight get UNAVAILABLE, so drain first."""
        self._server.close()
        self._thread.join()

    def _run(self) -> None:
        pending = self._pending
        waiting: set[Batcher] = set()  # whose requests wait for this thread
        while (events := self._next(block=not waiting)) is not None:
            arrived = time.monotonic()
            for kind, call_id, _, payload, _, details in events:
                if kind == EVENT_CANCEL:
                    if request := pending.pop(call_id, None):
                        request.cancel()
                elif payload is not None:
                    request = self._submit(call_id, payload, arrived, details)
                    if request:
                        waiting.add(request.model.batcher)
            waiting = {batcher for batcher in waiting if batcher.run_inline()}

    def _next(self, *, block: bool) -> list[Event] | None:
        """The calls and cancellations that have come; None at the end. Without `block` there may be none."""
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

    def _submit(self, call_id: int, payload: bytes, arrived: float, details: Details) -> PendingInfer | None:
        """`details` are the call's metadata, its caller's address and the seconds that are left, or None."""
        left = details[2] if details else None
        deadline = None if left is None else arrived + left
        try:
            if self._handler.auth_required:
                self._handler.authorize(details[0] if details else ())
            request = self._handler.submit(payload, self, call_id, arrived=arrived, deadline=deadline, wake=False)
        except ServiceError as refusal:
            self.fail(call_id, refusal)
            return None
        except Exception:  # the thread must outlive whatever one call does to it
            error = EngineFailed()
            log.exception("call failed", method="ModelInfer", error_id=error.error_id)
            self.fail(call_id, error)
            return None
        if request is not None:
            self._pending[call_id] = request
            if request.answered:  # before the line above
                self._pending.pop(call_id, None)
        return request

    def respond(self, call: int, payload: bytes) -> None:
        """Send the serialised response."""
        self._pending.pop(call, None)
        self._server.respond(call, payload)

    def fail(self, call: int, error: ServiceError) -> None:
        """End the call with the error."""
        self._pending.pop(call, None)
        self._server.fail(call, error.code.value[0], error.message, error.trailing_metadata() or None)
