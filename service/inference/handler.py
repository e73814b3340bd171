"""ModelInfer, from request bytes to the queue and from outputs to response bytes.

Owns the steps of one call: refuse it while draining, decode it, check the caller's right, find its model, queue it;
then respond, fail or cancel, and count the outcome. A call is bound to one loaded version, which checks it, computes it
and encodes its response; one that is replaced before the call is queued has no part in it. Not here: decoding
(decode.py, decode_cache.py), encoding (encode.py), the queue (batching/), the wire (transport/).
"""

import math
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, TypeVar

import structlog

from service.batching.queue import PendingRequest
from service.batching.scheduler import BatcherClosed
from service.batching.statistics import Statistics
from service.core.auth import AUTHORIZATION, FULL_ACCESS, INFER, Access, Tokens
from service.core.errors import Draining, EngineFailed, MessageTooLarge, PermissionDenied, ServiceError
from service.core.lifecycle import Lifecycle
from service.core.spec import Arrays, ModelSpec, Outputs
from service.inference.decode import (
    NO_PARAMETERS,
    Parameters,
    ParsedRequest,
    decode_inputs,
    decode_requested_outputs,
    parse,
)
from service.inference.decode_cache import CacheHit, DecodeCache
from service.inference.encode import Encoder, ResponseEncoder, ValuesEncoder, encoder_for
from service.models.loader import LoadedModel
from service.models.registry import Registry

log = structlog.get_logger(__name__)

# A call that is cancelled at most this many seconds before its deadline counts as expired: the client's clock may be
# ahead of the server's.
CLOCK_TOLERANCE = 0.005

# A version is alone if no other one got a call for ALONE_SECONDS. The thread that receives calls then runs its batches
# if they take less than SHARED_INLINE_SECONDS: so long may the first call of another version wait.
ALONE_SECONDS, SHARED_INLINE_SECONDS = 1.0, 0.001

C = TypeVar("C", contravariant=True)


class ResponseSink(Protocol[C]):
    """Sends responses and errors for a server, from any thread; `call` is the server's own handle of a call."""

    def respond(self, call: C, payload: bytes) -> None:
        """Send the serialised response."""

    def fail(self, call: C, error: ServiceError) -> None:
        """End the call with the error's status."""


class PendingInfer(PendingRequest):
    """A request that waits for its outputs: its decoded inputs, its version, and how to respond to its caller."""

    __slots__ = ("call", "encoder", "id", "model", "payload", "response", "sink")

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
        encoder: Encoder,
        sink: ResponseSink[Any],
        call: object,
        payload: bytes = b"",
    ) -> None:
        size = len(payload) or sum([array.nbytes for array in inputs])
        super().__init__(inputs, rows, arrived, deadline, parameters.timeout, parameters.priority, size)
        self.payload = payload
        self.id = request_id
        self.model = model
        self.encoder = encoder
        self.sink = sink
        self.call = call

    def rebind(self, other: "PendingInfer") -> None:
        """Become another decoding of the same call, which is bound to the version that serves now."""
        self.inputs, self.rows, self.model, self.encoder = other.inputs, other.rows, other.model, other.encoder
        self.deadline, self.timeout, self.level = other.deadline, other.timeout, other.level

    def prepare(self, outputs: Outputs, first: int, end: int) -> None:
        """Encode the requested outputs of this request's rows, from `first` up to, not including, `end`."""
        self.response = self.encoder.encode(self.id, outputs, first, end)

    def send(self) -> None:
        """Send the response."""
        self.sink.respond(self.call, self.response)

    def fail(self, error: ServiceError) -> None:
        """Count the error and send it."""
        self.model.statistics.record_failure(error.code.name, time.monotonic() - self.arrived)
        self.sink.fail(self.call, error)

    def cancel(self) -> None:
        """Drop the request from the queue: its caller cancelled, or its deadline passed."""
        if self.model.batcher.cancel(self):
            self.count_cancelled()

    def count_cancelled(self) -> None:
        """Count a request that its caller cancelled, or whose deadline passed, before it ran."""
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
        self._newest_spec: ModelSpec | None = None  # of the version that the newest burst was for
        self._switched_at = 0.0  # time.monotonic() of the first burst for that version
        self._registry = registry
        self._lifecycle = lifecycle
        self._max_message_bytes = max_message_bytes
        self._tokens = tokens

    def authorize(self, metadata: Iterable[tuple[str, str | bytes]], right: str = INFER) -> Access:
        """Check the token in a call's metadata, if tokens are required, and return what its caller may do.

        Raises:
            Unauthenticated: the token is missing, unknown or expired.
            PermissionDenied: the token lacks the right for every model.
        """
        if self._tokens is None:
            return FULL_ACCESS
        try:
            return self._tokens.check(dict(metadata).get(AUTHORIZATION), right)
        except ServiceError as error:
            self.unrouted_statistics.record_failure(error.code.name, 0.0)
            raise

    def check_right(self, access: Access, right: str, model: str) -> None:
        """Check that a caller's access covers a model, outside ModelInfer; "" stands for every model.

        Raises:
            PermissionDenied: the right is missing.
        """
        try:
            access.check(right, model)
        except PermissionDenied as error:
            self.unrouted_statistics.record_failure(error.code.name, 0.0)
            raise

    def check_accepting(self, arrived: float) -> None:
        """Refuse a Classify call while the server drains; its rows are queued until it has its results.

        Raises:
            Draining: the server accepts no new calls.
        """
        try:
            self._check_accepting(arrived)
        except Draining as error:
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
        access: Access = FULL_ACCESS,
    ) -> PendingInfer | None:
        """Decode the request and queue it, or fail the call at once. Times are on time.monotonic()'s clock.

        Returns the request, which can be cancelled while it is queued; None if it is invalid.
        """
        request = self.decode(payload, sink, call, arrived=arrived, deadline=deadline, access=access)
        if request is not None:
            self._queue(request)
        return request

    def decode(
        self,
        payload: bytes,
        sink: ResponseSink[C],
        call: C,
        *,
        arrived: float,
        deadline: float | None,
        access: Access = FULL_ACCESS,
    ) -> PendingInfer | None:
        """Decode the request and find its model, or fail the call. It must be queued by submit_burst().

        `access` is the caller's, which must cover the model.
        """
        statistics = self.unrouted_statistics
        try:
            self._check_accepting(arrived)
            if len(payload) > self._max_message_bytes:
                raise MessageTooLarge(len(payload), self._max_message_bytes)
            request: CacheHit | ParsedRequest = self._cache.find(payload) or parse(payload)
            access.check(INFER, request.name)
            parameters = request.parameters
            model = self._registry.get(request.name, request.version, parameters.sticky_key or request.id)
            statistics = model.statistics
            inputs, rows, encoder = self._decode(payload, request, model)
            return PendingInfer(
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
                payload=payload,
            )
        except ServiceError as error:
            statistics.record_failure(error.code.name, time.monotonic() - arrived)
            sink.fail(call, error)
        except Exception:
            statistics.record_failure(EngineFailed.code.name, time.monotonic() - arrived)
            raise
        return None

    def submit_burst(self, requests: Sequence[PendingInfer], receive: Callable[[], bool] | None) -> None:
        """Queue decoded requests that arrived together, or fail their calls.

        With `receive`, batches within `inline_seconds` run on the calling thread; Batcher.submit_burst says how.
        """
        model = requests[0].model
        if model.spec is not self._newest_spec:
            self._newest_spec, self._switched_at = model.spec, requests[0].arrived
        others = [request for request in requests if request.model is not model]
        if others:
            self.submit_burst(others, None)  # without `receive`: this burst's other requests would wait for the batch
            requests = [request for request in requests if request.model is model]
        model.batcher.submit_burst(requests, self._refuse, receive, inline_seconds=self.inline_seconds)

    def submit_row(
        self,
        model: LoadedModel,
        inputs: Arrays,
        output: int,
        sink: ResponseSink[C],
        call: C,
        *,
        arrived: float,
        deadline: float | None,
    ) -> PendingInfer | None:
        """Queue one decoded row for this very version, or fail the call at once. The response is one output's values.

        Raises:
            BatcherClosed: the version is being unloaded; the caller must look up its model again.
        """
        try:
            pending = PendingInfer(
                inputs,
                1,
                arrived=arrived,
                deadline=deadline,
                parameters=NO_PARAMETERS,
                request_id="",
                model=model,
                encoder=ValuesEncoder(output),
                sink=sink,
                call=call,
            )
            model.batcher.submit(pending)
            return pending
        except ServiceError as error:
            model.statistics.record_failure(error.code.name, time.monotonic() - arrived)
            sink.fail(call, error)
        return None

    @property
    def inline_seconds(self) -> float:
        """For how long the thread that receives calls may run a batch: calls of other versions would wait for it.

        Infinity if one version is loaded; SHARED_INLINE_SECONDS if one version gets all calls; else 0.
        """
        if self._registry.snapshot.serves_one_version:
            return math.inf
        return SHARED_INLINE_SECONDS if time.monotonic() - self._switched_at > ALONE_SECONDS else 0.0

    def _queue(self, request: PendingInfer) -> None:
        try:
            request.model.batcher.submit(request)
        except (ServiceError, BatcherClosed) as error:
            self._refuse(request, error)

    def _refuse(self, request: PendingInfer, error: Exception) -> None:
        """Fail a request that a batcher refused; if its version was replaced after the look-up, look it up again."""
        if isinstance(error, ServiceError):
            request.refuse(error)
            return
        try:  # with full access: the look-up before checked the caller's
            again = self.decode(
                request.payload, request.sink, request.call, arrived=request.arrived, deadline=request.deadline
            )
        except Exception:  # one call must not end the server's thread, nor lose the other calls of its burst
            failed = EngineFailed()
            log.exception("call failed", method="ModelInfer", error_id=failed.error_id)
            request.sink.fail(request.call, failed)
            return
        if again is None:
            return
        if again.model is request.model:  # closed, and still routed: the server stops
            request.refuse(Draining())
            return
        request.rebind(again)
        self._queue(request)

    def _check_accepting(self, arrived: float) -> None:
        if not self._lifecycle.accepts_calls:
            self._lifecycle.refuse(arrived)

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
