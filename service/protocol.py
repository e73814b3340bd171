"""ModelInfer from bytes to queue, and from outputs to reply.

Owns: what happens to one call, in order: refuse it while draining, read it, find its model, queue it; then answer it,
fail it or forget it, and count which. Does not own: what the bytes say (codec.py), the wire, the queue.
"""

import time
from collections.abc import Iterable
from typing import Any, Protocol, TypeVar

from service.batcher import BatcherClosed
from service.codec import Parameters, parse, read_inputs, read_outputs, read_parameters
from service.credentials import INFER, KEY, Credentials
from service.errors import Draining, EngineFailed, MessageTooLarge, ServiceError
from service.loader import LoadedModel
from service.model import Arrays, Outputs
from service.queue import Request
from service.registry import Registry
from service.response import Writer, writer_of
from service.statistics import Statistics
from service.templates import Templates

# A caller's own clock ends its call a little before or after ours would: within this, in seconds, it was the deadline.
CLOCK_SLACK = 0.005


C = TypeVar("C", contravariant=True)


class Replies(Protocol[C]):
    """A front's way back to its callers, whose calls it tells apart by whatever `call` is. From any thread."""

    def respond(self, call: C, payload: bytes) -> None:
        """Send the serialised response."""

    def fail(self, call: C, error: ServiceError) -> None:
        """End the call with the error's status."""


class InferRequest(Request):
    """A request on its way: what the batcher needs, and how to answer its caller."""

    __slots__ = ("answered", "call", "id", "model", "replies", "response", "writer")

    def __init__(
        self,
        inputs: Arrays,
        rows: int,
        arrived: float,
        deadline: float | None,
        parameters: Parameters,
        request_id: str,
        model: LoadedModel,
        writer: Writer,
        replies: Replies[Any],
        call: object,
    ) -> None:
        super().__init__(inputs, rows, arrived, deadline, parameters.timeout, parameters.priority)
        self.id = request_id
        self.model = model
        self.writer = writer
        self.replies = replies
        self.call = call
        self.answered = False

    def prepare(self, outputs: Outputs, first: int, end: int) -> None:
        """Serialise this request's rows of the outputs it asked for."""
        self.response = self.writer.write(self.id, outputs, first, end)

    def send(self) -> None:
        """Give the response to the front."""
        self.answered = True
        self.replies.respond(self.call, self.response)

    def fail(self, error: ServiceError) -> None:
        """Send the error and count it."""
        self.answered = True
        self.model.statistics.failure(error.code.name, time.monotonic() - self.arrived)
        self.replies.fail(self.call, error)

    def cancel(self) -> None:
        """The caller is gone, or its deadline has passed: cost no compute if none was spent yet."""
        if self.model.batcher.cancel(self):
            now = time.monotonic()
            expired = self.deadline is not None and now >= self.deadline - CLOCK_SLACK
            self.model.statistics.failure("DEADLINE_EXCEEDED" if expired else "CANCELLED", now - self.arrived)


class Inference:
    """ModelInfer, the one hot method, as both fronts call it."""

    def __init__(self, registry: Registry, *, max_message_bytes: int, credentials: Credentials | None = None) -> None:
        self.guarded = credentials is not None  # every call must be authorized
        self.leaving = False  # the server will stop: readiness says so, requests are still taken
        self.draining = False  # it takes no more
        self.refused_at = 0.0  # when a call last met that
        self.unrouted = Statistics()  # of calls that reached no model
        self._templates = Templates()
        self._registry = registry
        self._max_message_bytes = max_message_bytes
        self._credentials = credentials

    def authorize(self, metadata: Iterable[tuple[str, str | bytes]], right: str = INFER) -> None:
        """Judge a call by its metadata, where calls are guarded.

        Raises:
            Unauthenticated, PermissionDenied: it must not go on.
        """
        if self._credentials is None:
            return
        try:
            self._credentials.check(dict(metadata).get(KEY), right)
        except ServiceError as error:
            self.unrouted.failure(error.code.name, 0.0)
            raise

    def accept(
        self,
        payload: bytes,
        replies: Replies[C],
        call: C,
        *,
        arrived: float,
        deadline: float | None,
        wake: bool = True,
    ) -> InferRequest | None:
        """Check the request and queue it; the call fails now if it is refused, else it is answered when computed.

        Times are on time.monotonic()'s clock. Returns the queued request, which can be cancelled, or None. A caller
        that does not `wake` the engine lends the request's batcher its thread after.
        """
        statistics = self.unrouted
        try:
            if self.draining:
                self.refused_at = arrived
                raise Draining
            if len(payload) > self._max_message_bytes:
                raise MessageTooLarge(len(payload), self._max_message_bytes)
            known = self._templates.find(payload)
            while True:
                if known:
                    template, request_id, start = known
                    parameters = template.parameters
                    model = self._registry.get(template.name, template.version, parameters.sticky_key or request_id)
                    statistics = model.statistics
                    if template.model() is not model:
                        known = None  # another version answers now, for which it has to be checked anew
                        continue
                    inputs, rows, writer = template.inputs(payload, start), template.rows, template.writer
                else:
                    message = parse(payload)
                    request_id = message.id
                    parameters = read_parameters(message)
                    model = self._registry.get(
                        message.model_name, message.model_version, parameters.sticky_key or request_id
                    )
                    statistics = model.statistics
                    inputs, rows = read_inputs(message, model.spec)
                    writer = writer_of(model.spec, read_outputs(message, model.spec))
                    self._templates.learn(payload, message, parameters, model, inputs, rows, writer)
                request = InferRequest(
                    inputs, rows, arrived, deadline, parameters, request_id, model, writer, replies, call
                )
                try:
                    model.batcher.submit(request, wake=wake)
                except BatcherClosed:
                    if self.draining:
                        raise Draining from None
                    continue  # it was replaced between the two lines above; the registry knows by what
                return request
        except ServiceError as error:
            statistics.failure(error.code.name, time.monotonic() - arrived)
            replies.fail(call, error)
        except Exception:
            statistics.failure(EngineFailed.code.name, time.monotonic() - arrived)
            raise
        return None
