"""The fast front: pygrpc-native, whose HTTP/2 and gRPC work runs in Rust outside the GIL.

Owns: one thread that takes calls in bursts, with their deadlines and cancellations, and that it lends to a batcher
after each burst. It serves ModelInfer; all else goes through to the grpcio front on `fallback`, a Unix socket.
"""

import threading
import time
from collections.abc import Sequence

import structlog
from pygrpc_native import EVENT_CANCEL, NativeGrpcFront

from service.batcher import Batcher
from service.errors import EngineFailed, ServiceError
from service.protocol import Inference, InferRequest

MODEL_INFER = "/inference.GRPCInferenceService/ModelInfer"
# Calls taken from the front in one crossing of the GIL.
BURST = 256

Details = tuple[Sequence[tuple[str, str | bytes]], str, float | None] | None

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
        while (events := self._front.recv_batch_details(BURST, 0 if filled else None)) is not None:
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

    def _accept(self, call_id: int, payload: bytes, arrived: float, details: Details) -> InferRequest | None:
        """`details` are the call's metadata, its caller's address and the seconds that are left, or None."""
        reply = NativeReply(self._front, call_id, self._pending)
        left = details[2] if details else None
        deadline = None if left is None else arrived + left
        try:
            if self._inference.guarded:
                self._inference.authorize(details[0] if details else ())
            request = self._inference.accept(payload, reply, arrived=arrived, deadline=deadline, wake=False)
        except ServiceError as refusal:
            reply.fail(refusal)
            return None
        except Exception:  # the thread must outlive whatever one call does to it
            error = EngineFailed()
            log.exception("a call failed", method="ModelInfer", error_id=error.error_id)
            reply.fail(error)
            return None
        if request is not None and not reply.used:
            self._pending[call_id] = request
            if reply.used:  # answered between the two lines above
                self._pending.pop(call_id, None)
        return request


class NativeReply:
    """The way back to the caller of one call."""

    __slots__ = ("_call_id", "_front", "_pending", "used")

    def __init__(self, front: NativeGrpcFront, call_id: int, pending: dict[int, InferRequest]) -> None:
        self._front = front
        self._call_id = call_id
        self._pending = pending
        self.used = False

    def respond(self, payload: bytes) -> None:
        """Send the serialised response."""
        self.used = True
        self._pending.pop(self._call_id, None)
        self._front.respond(self._call_id, payload)

    def fail(self, error: ServiceError) -> None:
        """End the call with the error."""
        self.used = True
        self._pending.pop(self._call_id, None)
        self._front.fail(self._call_id, error.code.value[0], error.message, error.trailing_metadata() or None)
