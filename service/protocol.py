"""ModelInfer from bytes to queue, and from outputs to reply.

Owns: what happens to one call, in order: refuse it while draining, read it, find its model, queue it; then answer it,
fail it or forget it, and count which. Does not own: what the bytes say (codec.py), the wire, the queue.
"""

import time
from collections.abc import Iterable
from typing import Protocol

from service.batcher import BatcherClosed
from service.codec import Parameters, parse, read_inputs, read_outputs, read_parameters
from service.credentials import INFER, KEY, Credentials
from service.errors import Draining, EngineFailed, MessageTooLarge, ServiceError
from service.loader import LoadedModel
from service.model import Arrays
from service.pb.inference_pb2 import ModelInferRequest
from service.queue import Request
from service.registry import Registry
from service.response import write_response
from service.statistics import Statistics

# A caller's own clock ends its call a little before or after ours would: within this, in seconds, it was the deadline.
CLOCK_SLACK = 0.005


class Reply(Protocol):
    """A front's way back to one caller. Called once, from any thread."""

    def respond(self, payload: bytes) -> None:
        """Send the serialised response."""

    def fail(self, error: ServiceError) -> None:
        """End the call with the error's status."""


class InferRequest(Request):
    """A request on its way: what the batcher needs, and how to answer its caller."""

    __slots__ = ("id", "model", "outputs", "reply", "response")

    def __init__(
        self,
        message: ModelInferRequest,
        parameters: Parameters,
        model: LoadedModel,
        reply: Reply,
        *,
        arrived: float,
        deadline: float | None,
    ) -> None:
        inputs, rows = read_inputs(message, model.spec)
        super().__init__(
            inputs,
            rows,
            arrived=arrived,
            deadline=deadline,
            timeout=parameters.timeout,
            priority=parameters.priority,
        )
        self.outputs = read_outputs(message, model.spec)
        self.id = message.id
        self.model = model
        self.reply = reply

    def prepare(self, outputs: Arrays) -> None:
        """Serialise this request's rows of the outputs it asked for."""
        self.response = write_response(self.model.spec, self.id, self.outputs, outputs)

    def send(self) -> None:
        """Give the response to the front."""
        self.reply.respond(self.response)

    def fail(self, error: ServiceError) -> None:
        """Send the error and count it."""
        self.model.statistics.failure(error.code.name, time.monotonic() - self.arrived)
        self.reply.fail(error)

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
        self, payload: bytes, reply: Reply, *, arrived: float, deadline: float | None, wake: bool = True
    ) -> InferRequest | None:
        """Check the request and queue it; `reply` is used now if it is refused, else when it is computed.

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
            message = parse(payload)
            parameters = read_parameters(message)
            while True:
                model = self._registry.get(
                    message.model_name, message.model_version, parameters.sticky_key or message.id
                )
                statistics = model.statistics
                request = InferRequest(message, parameters, model, reply, arrived=arrived, deadline=deadline)
                try:
                    model.batcher.submit(request, wake=wake)
                except BatcherClosed:
                    if self.draining:
                        raise Draining from None
                    continue  # it was replaced between the two lines above; the registry knows by what
                return request
        except ServiceError as error:
            statistics.failure(error.code.name, time.monotonic() - arrived)
            reply.fail(error)
        except Exception:
            statistics.failure(EngineFailed.code.name, time.monotonic() - arrived)
            raise
        return None
