"""The front that serves every method: grpc.aio.

Owns: registering the methods, turning ServiceErrors into statuses, deadlines and cancellation, and the reply that
crosses from an engine's thread to the event loop. Knows nothing of tensors.
"""

from __future__ import annotations  # types-grpcio's generics exist for mypy only

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any, NoReturn

import grpc
import structlog
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha import reflection

from service.errors import EngineFailed, InvalidArgument, ServiceError, Unimplemented
from service.health import HealthServicer
from service.pb import health_pb2, inference_pb2
from service.protocol import Inference
from service.servicers import InferenceServicer

INFERENCE: ServiceDescriptor = inference_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
HEALTH: ServiceDescriptor = health_pb2.DESCRIPTOR.services_by_name["Health"]

PENDING_CALLS = 2**16

if TYPE_CHECKING:
    Context = grpc.aio.ServicerContext[Any, Any]
    Handler = grpc.RpcMethodHandler[Any, Any]

log = structlog.get_logger(__name__)


class GrpcioFront:
    """A grpc.aio server of all methods on one address, on the running event loop.

    Raises:
        OSError: the address is taken or cannot be bound.
    """

    def __init__(
        self,
        address: str,
        inference: Inference,
        servicer: InferenceServicer,
        health: HealthServicer,
        *,
        max_message_bytes: int,
    ) -> None:
        self._inference = inference
        self._outbox = Outbox(asyncio.get_running_loop())
        self._server = grpc.aio.server(
            options=[
                ("grpc.so_reuseport", 0),  # a taken port must be an error
                # Calls that gRPC holds before we take them. Past 1,000 it would cancel some at random, with a status
                # that no client retries; the batcher's bound comes after, with a better answer.
                ("grpc.server.max_pending_requests", PENDING_CALLS),
                ("grpc.server.max_pending_requests_hard_limit", PENDING_CALLS),
                ("grpc.max_receive_message_length", max_message_bytes),
                ("grpc.max_send_message_length", -1),
            ]
        )
        infer: Handler = grpc.unary_unary_rpc_method_handler(self._infer)
        self._server.add_generic_rpc_handlers(
            (
                _handlers(INFERENCE, servicer, {"ModelInfer": infer}),
                _handlers(HEALTH, health, {"Watch": _stream_handler(health.Watch, health_pb2.HealthCheckRequest)}),
            )
        )
        reflection.enable_server_reflection(
            (INFERENCE.full_name, HEALTH.full_name, reflection.SERVICE_NAME), self._server
        )
        try:
            self.port = self._server.add_insecure_port(address)
        except RuntimeError as error:
            raise OSError(f"{address} cannot be bound") from error

    async def start(self) -> None:
        """Take calls."""
        await self._server.start()

    async def stop(self, grace: float) -> None:
        """Refuse new calls, send GOAWAY, and end those in flight after `grace` seconds."""
        await self._server.stop(grace)

    async def _infer(self, payload: bytes, context: Context) -> bytes:
        arrived = time.monotonic()
        left = context.time_remaining()
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        try:
            request = self._inference.accept(
                payload,
                LoopReply(future, self._outbox),
                arrived=arrived,
                deadline=None if left is None else arrived + left,
            )
        except Exception:  # noqa: BLE001 # _unexpected logs it
            await _abort(context, _unexpected("ModelInfer"))
        try:
            return await future
        except ServiceError as error:
            await _abort(context, error)
        except asyncio.CancelledError:
            if request is not None:
                request.cancel()
            raise


class Outbox:
    """Results on their way from the engines' threads to the event loop, one wake-up for many."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._results: deque[tuple[asyncio.Future[bytes], bytes | ServiceError]] = deque()
        self._woken = False

    def put(self, future: asyncio.Future[bytes], result: bytes | ServiceError) -> None:
        """Deliver the result on the loop; from any thread."""
        self._results.append((future, result))
        if not self._woken:
            self._woken = True
            with contextlib.suppress(RuntimeError):  # the loop has ended, and with it the call
                self._loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        self._woken = False  # first, so that what is put from here on wakes the loop again
        while self._results:
            future, result = self._results.popleft()
            if future.done():  # cancelled meanwhile
                continue
            if isinstance(result, ServiceError):
                future.set_exception(result)
            else:
                future.set_result(result)


class LoopReply:
    """The way back to a caller whose coroutine waits for `future`."""

    __slots__ = ("_future", "_outbox")

    def __init__(self, future: asyncio.Future[bytes], outbox: Outbox) -> None:
        self._future = future
        self._outbox = outbox

    def respond(self, payload: bytes) -> None:
        """Send the serialised response."""
        self._outbox.put(self._future, payload)

    def fail(self, error: ServiceError) -> None:
        """End the call with the error."""
        self._outbox.put(self._future, error)


def _handlers(service: ServiceDescriptor, servicer: object, special: dict[str, Handler]) -> grpc.GenericRpcHandler:
    """A handler for every method of the service: the servicer's, a special one, or UNIMPLEMENTED."""
    handlers = {}
    for method in service.methods:
        function = getattr(servicer, method.name, None) or _missing(method.name)
        handlers[method.name] = special.get(method.name) or _unary_handler(function, GetMessageClass(method.input_type))
    return grpc.method_handlers_generic_handler(service.full_name, handlers)


def _missing(name: str) -> Callable[[Message], Message]:
    def method(_: Message) -> Message:
        raise Unimplemented(f"{name} is not offered by this server")

    return method


def _unary_handler(function: Callable[[Any], Message], request: type[Message]) -> Handler:
    async def handle(payload: bytes, context: Context) -> bytes:
        try:
            return function(_parse(request, payload)).SerializeToString()
        except ServiceError as error:
            await _abort(context, error)
        except Exception:  # noqa: BLE001 # _unexpected logs it
            await _abort(context, _unexpected(function.__name__))

    return grpc.unary_unary_rpc_method_handler(handle)


def _stream_handler(function: Callable[[Any], AsyncIterator[Message]], request: type[Message]) -> Handler:
    async def handle(payload: bytes, context: Context) -> AsyncIterator[bytes]:
        try:
            async for response in function(_parse(request, payload)):
                yield response.SerializeToString()
        except ServiceError as error:
            await _abort(context, error)

    return grpc.unary_stream_rpc_method_handler(handle)


def _parse(message: type[Message], payload: bytes) -> Message:
    try:
        return message.FromString(payload)
    except DecodeError as error:
        raise InvalidArgument("", f"the bytes are no {message.DESCRIPTOR.full_name}") from error


def _unexpected(method: str) -> EngineFailed:
    """The answer to an exception that nobody foresaw; it is being handled now."""
    error = EngineFailed()
    log.exception("a call failed", method=method, error_id=error.error_id)
    return error


async def _abort(context: Context, error: ServiceError) -> NoReturn:
    await context.abort(error.code, error.message, tuple(error.trailing_metadata()))
