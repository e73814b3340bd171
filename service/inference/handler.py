"""ModelInfer, from request bytes to the queue and from outputs to response bytes.

Owns the steps of one call: refuse it while draining, decode it, find its model, queue it; then respond, fail or cancel,
and count the outcome. Not here: decoding (decode.py, decode_cache.py), encoding (encode.py), the queue (batching/),
the wire (transport/).
"""

import time
from collections.abc import Iterable
from typing import Any, Protocol, TypeVar

from service.batching.batcher import BatcherClosed
from service.batching.queue import PendingRequest
from service.batching.statistics import Statistics
from service.core.auth import AUTHORIZATION, INFER, Tokens
from service.core.errors import EngineFailed, MessageTooLarge, ServiceError
from service.core.lifecycle import Lifecycle
from service.core.spec import Arrays, Outputs
from service.inference.decode import Parameters, ParsedRequest, decode_inputs, decode_requested_outputs, parse
from service.inference.decode_cache import CacheHit, DecodeCache
from service.inference.encode import ResponseEncoder, encoder_for
from service.models.loader import LoadedModel
from service.models.registry import Registry

# A call that is cancelled at most this many seconds before its deadline counts as expired: the client's clock may be
# ahead of the server's.
CLOCK_TOLERANCE = 0.005

C = TypeVar("C", contravariant=True)


class ResponseSink(Protocol[C]):
    """Sends responses and errors for a server, from any thread; `call` is the server's own handle of a call."""

    def respond(self, call: C, payload: bytes) -> None:
        """Send the serialised response."""

    def fail(self, call: C, error: ServiceError) -> None:
        """End the call with the error's status."""


class PendingInfer(PendingRequest):
    """A ModelInfer call that waits for its outputs: its decoded inputs, and how to respond to its caller."""

    __slots__ = ("answered", "call", "encoder", "id", "model", "response", "sink")

    def __init__(
        self,
        inputs: Arrays,
        rows: int,
        *,
        arrived: float,
        deadline: float | None,
        parameters: Parameters,
        request_id: str,
        model: LoadedModel,
        encoder: ResponseEncoder,
        sink: ResponseSink[Any],
        call: object,
    ) -> None:
        super().__init__(inputs, rows, arrived, deadline, parameters.timeout, parameters.priority)
        self.id = request_id
        self.model = model
        self.encoder = encoder
        self.sink = sink
        self.call = call
        self.answered = False

    def prepare(self, outputs: Outputs, first: int, end: int) -> None:
        """Encode the requested outputs of this request's rows, from `first` up to, not including, `end`."""
        self.response = self.encoder.encode(self.id, outputs, first, end)

    def send(self) -> None:
        """Send the response."""
        self.answered = True
        self.sink.respond(self.call, self.response)

    def fail(self, error: ServiceError) -> None:
        """Send the error and count it."""
        self.answered = True
        self.model.statistics.record_failure(error.code.name, time.monotonic() - self.arrived)
        self.sink.fail(self.call, error)

    def cancel(self) -> None:
        """Drop the request from the queue: its caller cancelled, or its deadline passed."""
        if self.model.batcher.cancel(self):
            now = time.monotonic()
            expired = self.deadline is not None and now >= self.deadline - CLOCK_TOLERANCE
            self.model.statistics.record_failure("DEADLINE_EXCEEDED" if expired else "CANCELLED", now - self.arrived)


class InferenceHandler:
    """Handles ModelInfer for both gRPC servers."""

    def __init__(
        self, registry: Registry, lifecycle: Lifecycle, *, max_message_bytes: int, tokens: Tokens | None = None
    ) -> None:
        self.auth_required = tokens is not None
        self.unrouted_statistics = Statistics()  # of calls that reached no model
        self._cache = DecodeCache()
        self._registry = registry
        self._lifecycle = lifecycle
        self._max_message_bytes = max_message_bytes
        self._tokens = tokens

    def authorize(self, metadata: Iterable[tuple[str, str | bytes]], right: str = INFER) -> None:
        """Check the token in a call's metadata, if tokens are required.

        Raises:
            Unauthenticated: the token is missing, unknown or expired.
            PermissionDenied: the token lacks the right.
        """
        if self._tokens is None:
            return
        try:
            self._tokens.check(dict(metadata).get(AUTHORIZATION), right)
        except ServiceError as error:
            self.unrouted_statistics.record_failure(error.code.name, 0.0)
            raise

    def submit(
        self,
        payload: bytes,
        sink: ResponseSink[C],
        call: C,
        *,
        arrived: float,
        deadline: float | None,
        wake: bool = True,
    ) -> PendingInfer | None:
        """Decode the request and queue it, or fail the call at once. Times are on time.monotonic()'s clock.

        Returns the queued request, which can be cancelled; None if the call failed. With `wake` false the caller
        runs the batcher on its own thread afterwards (Batcher.run_inline).
        """
        statistics = self.unrouted_statistics
        try:
            self._check_accepting(payload, arrived)
            request: CacheHit | ParsedRequest = self._cache.find(payload) or parse(payload)
            while True:
                parameters = request.parameters
                model = self._registry.get(request.name, request.version, parameters.sticky_key or request.id)
                statistics = model.statistics
                inputs, rows, encoder = self._decode(payload, request, model)
                pending = PendingInfer(
                    inputs,
                    rows,
                    arrived=arrived,
                    deadline=deadline,
                    parameters=parameters,
                    request_id=request.id,
                    model=model,
                    encoder=encoder,
                    sink=sink,
                    call=call,
                )
                try:
                    model.batcher.submit(pending, wake=wake)
                    return pending
                except BatcherClosed:  # the version was replaced after the look-up: look it up again
                    if not self._lifecycle.accepts_calls:
                        self._lifecycle.refuse(arrived)
        except ServiceError as error:
            statistics.record_failure(error.code.name, time.monotonic() - arrived)
            sink.fail(call, error)
        except Exception:
            statistics.record_failure(EngineFailed.code.name, time.monotonic() - arrived)
            raise
        return None

    def _check_accepting(self, payload: bytes, arrived: float) -> None:
        if not self._lifecycle.accepts_calls:
            self._lifecycle.refuse(arrived)
        if len(payload) > self._max_message_bytes:
            raise MessageTooLarge(len(payload), self._max_message_bytes)

    def _decode(
        self, payload: bytes, request: CacheHit | ParsedRequest, model: LoadedModel
    ) -> tuple[Arrays, int, ResponseEncoder]:
        """The inputs, their number of rows, and the encoder of the response."""
        if isinstance(request, CacheHit):
            layout = request.layout
            if layout.model() is model:
                return layout.inputs(payload, request.start), layout.rows, layout.encoder
            request = parse(payload)  # the layout was checked against another version
        inputs, rows = decode_inputs(request.message, model.spec)
        encoder = encoder_for(model.spec, decode_requested_outputs(request.message, model.spec))
        self._cache.add(payload, request, model, inputs, rows, encoder)
        return inputs, rows, encoder
