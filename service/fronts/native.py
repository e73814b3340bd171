"""The fast front: pygrpc-native, whose HTTP/2 and gRPC work runs in Rust outside the GIL.

Owns: one thread that takes calls in bursts, with their deadlines and cancellations, and that it lends to a batcher
after each burst. It serves ModelInfer; all else goes through to the grpcio front on `fallback`, a Unix socket.
"""

import os
import threading
import time

import structlog
from pygrpc_native import EVENT_CANCEL, NativeGrpcFront

from service.batcher import Batcher
from service.errors import EngineFailed, ServiceError
from service.protocol import Inference, InferRequest

MODEL_INFER = "/inference.GRPCInferenceService/ModelInfer"
# Calls taken from the front in one crossing of the GIL.
BURST = 256
# A thread that sleeps is woken late, above all on a virtual machine, where it took longer than answering a request. So
# the next calls are looked for so long, in seconds, before the thread sleeps, where the last ones came SOON.
POLL_SECONDS, SOON = 100e-6, 500e-6

Details = tuple[tuple[tuple[str, str | bytes], ...], str, float | None] | None
Event = tuple[int, int, int, bytes | None, bytes | str | None, Details]

log = structlog.get_logger(__name__)


class NativeFront:
    """The front on a TCP address.

    Raises:
        OSError: the address is taken or cannot be bound.
    """

    def __init__(self, address: str, inference: Inference, *, fallback: str, reuse_port: bool = False) -> None:
        self._inference = inference
        self._front = NativeGrpcFront(
            address, [(MODEL_INFER, False)], call_details=True, io_threads=1, reuse_port=reuse_port
        )
        self._front.set_fallback(fallback)
        self.port = self._front.bound_port
        self._pending: dict[int, InferRequest] = {}
        self._patience = 0.0  # how long to look for calls before sleeping
        self._thread = threading.Thread(target=self._take, name="front", daemon=True)

    def start(self) -> None:
        """Take calls."""
        self._front.start()
        self._thread.start()

    def close(self) -> None:
        """End at once; calls in flight get UNAVAILABLE, so drain first."""
        self._front.close()
        self._thread.join()

    def _take(self) -> None:
        pending = self._pending
        filled: set[Batcher] = set()  # whose requests wait for this thread
        while (events := self._next(block=not filled)) is not None:
            arrived = time.monotonic()
            for kind, call_id, _, payload, _, details in events:
                if kind == EVENT_CANCEL:
                    if request := pending.pop(call_id, None):
                        request.cancel()
                elif payload is not None:
                    request = self._accept(call_id, payload, arrived, details)
                    if request:
                        filled.add(request.model.batcher)
            filled = {batcher for batcher in filled if batcher.lend_thread()}

    def _next(self, *, block: bool) -> list[Event] | None:
        """The calls and cancellations that have come; None at the end. Without `block` there may be none."""
        take = self._front.recv_batch_details
        events: list[Event] | None = take(BURST, 0)
        if not block or events or events is None:
            return events
        began = time.monotonic()
        limit = began + self._patience
        while not events and events is not None and time.monotonic() < limit:
            os.sched_yield()
            events = take(BURST, 0)
        if not events and events is not None:
            events = take(BURST, None)
        self._patience = POLL_SECONDS if time.monotonic() - began < SOON else 0.0
        return events

    def _accept(self, call_id: int, payload: bytes, arrived: float, details: Details) -> InferRequest | None:
        """`details` are the call's metadata, its caller's address and the seconds that are left, or None."""
        left = details[2] if details else None
        deadline = None if left is None else arrived + left
        try:
            if self._inference.guarded:
                self._inference.authorize(details[0] if details else ())
            request = self._inference.accept(payload, self, call_id, arrived=arrived, deadline=deadline, wake=False)
        except ServiceError as refusal:
            self.fail(call_id, refusal)
            return None
        except Exception:  # the thread must outlive whatever one call does to it
            error = EngineFailed()
            log.exception("a call failed", method="ModelInfer", error_id=error.error_id)
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
        self._front.respond(call, payload)

    def fail(self, call: int, error: ServiceError) -> None:
        """End the call with the error."""
        self._pending.pop(call, None)
        self._front.fail(call, error.code.value[0], error.message, error.trailing_metadata() or None)
