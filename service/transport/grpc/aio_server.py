"""The aio server: every method, on grpc.aio.

Owns the registration of methods, authorization, deadlines, cancellation, streams, the conversion of ServiceErrors to
statuses, and the handover of responses from the engines' threads to the event loop. Methods with one request are
registered as methods with a stream of them: grpc.aio calls those before the request is there, and flow control holds it
back until the caller's token is checked. Not here: limits (limits.py, receiving.py), what the methods do (the
servicers), tensors (inference/).
"""

from __future__ import annotations  # types-grpcio's generics exist for mypy only

import asyncio
import contextlib
import functools
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import grpc
import structlog
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha import reflection, reflection_pb2

from service.core.auth import FULL_ACCESS, INFER, Access
from service.core.errors import DeadlineExceeded, Draining, EngineFailed, InvalidArgument, NoMessage, ServiceError
from service.core.spec import Arrays
from service.core.wire import expansion
from service.inference.encode import stream_error, stream_response
from service.inference.handler import InferenceHandler, PendingInfer
from service.models.loader import LoadedModel
from service.pb import POOL, classifier_pb2, health_pb2, inference_pb2
from service.transport.grpc.classifier_servicer import ClassifierServicer
from service.transport.grpc.hang_ups import GRPC_LOGGER, HANG_UPS
from service.transport.grpc.health_servicer import HealthServicer
from service.transport.grpc.inference_servicer import InferenceServicer
from service.transport.grpc.limits import server_options
from service.transport.grpc.memory import Memory
from service.transport.grpc.receiving import Receiving
from service.transport.grpc.response_sink import LoopResponseSink
from service.transport.grpc.rights import concerned_model, keep_covered, right_of
from service.transport.grpc.streaming import InferenceStream
from service.transport.grpc.timeouts import deadline_at

INFERENCE: ServiceDescriptor = inference_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
CLASSIFIER: ServiceDescriptor = classifier_pb2.DESCRIPTOR.services_by_name["ImageClassifier"]
HEALTH: ServiceDescriptor = health_pb2.DESCRIPTOR.services_by_name["Health"]
# Reflection describes itself too, so its own file must be in the pool that it reads.
POOL.AddSerializedFile(reflection_pb2.DESCRIPTOR.serialized_pb)

# Triton's metadata key: if a client sends "true", an error is the status of the stream and ends it, instead of being a
# message of the stream.
STATUS_KEY = "triton_grpc_error"

M = TypeVar("M", bound=Message)
T = TypeVar("T")

if TYPE_CHECKING:
    Context = grpc.aio.ServicerContext[Any, Any]
    MethodHandler = grpc.RpcMethodHandler[Any, Any]

log = structlog.get_logger(__name__)


class AioServer:
    """A grpc.aio server of all methods on one address, on the running event loop; with `credentials`, over TLS.

    Raises:
        OSError: the address is taken or cannot be bound.
    """

    def __init__(
        self,
        address: str,
        handler: InferenceHandler,
        servicer: InferenceServicer,
        classifier: ClassifierServicer,
        health: HealthServicer,
        *,
        max_message_bytes: int,
        reuse_port: bool = False,
        max_connection_age_seconds: float = 0.0,
        credentials: grpc.ServerCredentials | None = None,
    ) -> None:
        self._handler = handler
        self._sink = LoopResponseSink(asyncio.get_running_loop())
        self._waiting_streams: set[asyncio.Task[Any]] = set()  # those that wait for their next message
        self._stopping = False
        self._receiving = Receiving(Memory().used, max_message_bytes)
        logging.getLogger(GRPC_LOGGER).addFilter(HANG_UPS)
        self._server = grpc.aio.server(
            options=server_options(
                address,
                max_message_bytes=max_message_bytes,
                reuse_port=reuse_port,
                max_connection_age_seconds=max_connection_age_seconds,
            )
        )
        infer: MethodHandler = grpc.stream_unary_rpc_method_handler(self._infer)
        stream: MethodHandler = grpc.stream_stream_rpc_method_handler(self._infer_stream)
        classify: MethodHandler = grpc.stream_unary_rpc_method_handler(functools.partial(self._classify, classifier))
        watch: MethodHandler = grpc.stream_stream_rpc_method_handler(functools.partial(self._watch, health))
        self._server.add_generic_rpc_handlers(
            (
                self._handlers(INFERENCE, servicer, {"ModelInfer": infer, "ModelStreamInfer": stream}),
                self._handlers(CLASSIFIER, classifier, {"Classify": classify}),
                self._handlers(HEALTH, health, {"Watch": watch}),
                self._reflection(),
            )
        )
        try:
            self.port = (
                self._server.add_secure_port(address, credentials)
                if credentials
                else self._server.add_insecure_port(address)
            )
        except RuntimeError as error:
            raise OSError(f"{address} cannot be bound") from error

    async def start(self) -> None:
        """Start to serve."""
        await self._server.start()

    async def stop(self, grace: float) -> None:
        """End the streams, refuse new calls, send GOAWAY, and cancel calls that take longer than `grace` seconds."""
        self._stopping = True
        for stream in self._waiting_streams:
            stream.cancel()
        await self._server.stop(grace)

    def _submit(
        self, payload: bytes, deadline: float | None, access: Access
    ) -> tuple[asyncio.Future[bytes], PendingInfer | None]:
        """Queue a request. The future gets the serialised response or a ServiceError."""
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        try:
            arrived = time.monotonic()
            return future, self._handler.submit(
                payload, self._sink, future, arrived=arrived, deadline=deadline, access=access
            )
        except Exception:  # noqa: BLE001 # _log_unexpected logs it
            future.set_exception(_log_unexpected("ModelInfer"))
            return future, None

    def _submit_of_stream(
        self, payload: bytes, deadline: float | None, context: Context
    ) -> tuple[asyncio.Future[bytes], PendingInfer | None]:
        """As `_submit`; checks the token again, which may expire or be revoked while the stream is open."""
        try:
            return self._submit(payload, deadline, self._authorize(context))
        except ServiceError as error:
            future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
            future.set_exception(error)
            return future, None

    async def _infer_row(self, model: LoadedModel, inputs: Arrays, output: int, *, deadline: float | None) -> bytes:
        """The values of one output for one row on this very version. Raises BatcherClosed if it is being unloaded."""
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        request = self._handler.submit_row(
            model, inputs, output, self._sink, future, arrived=time.monotonic(), deadline=deadline
        )
        return await _outcome(future, request)

    async def _infer(self, _: object, context: Context) -> bytes:
        try:
            access = self._authorize(context)
            payload = await self._receive(context)
            return await _outcome(*self._submit(payload, _deadline(context), access))
        except ServiceError as error:
            await _abort(context, error)

    async def _classify(self, classifier: ClassifierServicer, _: object, context: Context) -> bytes:
        deadline = _deadline(context)
        try:
            access = self._authorize(context)
            payload = await self._receive(context)
            self._handler.check_accepting(time.monotonic())
            response = await classifier.Classify(
                payload,
                functools.partial(self._infer_row, deadline=deadline),
                deadline,
                functools.partial(self._handler.check_right, access, INFER),
            )
            return response.SerializeToString()
        except ServiceError as error:
            await _abort(context, error)
        except Exception:  # noqa: BLE001 # _log_unexpected logs it
            await _abort(context, _log_unexpected("Classify"))

    async def _infer_stream(self, requests: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
        try:
            self._authorize(context)
        except ServiceError as error:
            await _abort(context, error)
        deadline = _deadline(context)
        as_status = (STATUS_KEY, "true") in tuple(context.invocation_metadata() or ())
        stream = InferenceStream(
            self._receiving.messages(requests),
            lambda payload: self._submit_of_stream(payload, deadline, context),
        )
        messages = self._until_stop(stream.responses())
        async with contextlib.aclosing(messages) as responses, _ends(context, "ModelStreamInfer"):
            async for payload, response in responses:
                if isinstance(response, bytes):
                    yield stream_response(response)
                elif as_status:
                    await _abort(context, response)
                else:
                    yield stream_error(payload, response)

    async def _watch(self, health: HealthServicer, _: object, context: Context) -> AsyncIterator[bytes]:
        try:
            request = _parse(health_pb2.HealthCheckRequest, await self._receive(context))
        except ServiceError as error:
            await _abort(context, error)
        messages = self._until_stop(health.Watch(request))
        async with contextlib.aclosing(messages) as statuses, _ends(context, "Watch"):
            async for status in statuses:
                yield status.SerializeToString()

    def _reflection(self) -> grpc.GenericRpcHandler:
        """Reflection, which needs no token, with messages received as those of other methods."""
        names = (INFERENCE.full_name, CLASSIFIER.full_name, HEALTH.full_name, reflection.SERVICE_NAME)
        servicer = reflection.aio.ReflectionServicer(names, pool=POOL)

        async def reflect(
            requests: AsyncIterator[reflection_pb2.ServerReflectionRequest], context: Context
        ) -> AsyncIterator[Message]:
            messages: Any = servicer.ServerReflectionInfo(self._receiving.messages(requests), context)
            async with contextlib.aclosing(messages) as responses, _ends(context, "ServerReflectionInfo"):
                async for response in responses:
                    yield response

        handler: MethodHandler = grpc.stream_stream_rpc_method_handler(
            reflect,
            reflection_pb2.ServerReflectionRequest.FromString,
            reflection_pb2.ServerReflectionResponse.SerializeToString,
        )
        return grpc.method_handlers_generic_handler(reflection.SERVICE_NAME, {"ServerReflectionInfo": handler})

    def _handlers(
        self, service: ServiceDescriptor, servicer: object, own_handlers: dict[str, MethodHandler]
    ) -> grpc.GenericRpcHandler:
        """The handlers of all methods of the service: `own_handlers`, and the servicer for other methods."""
        handlers = {}
        for method in service.methods:
            handlers[method.name] = own_handlers.get(method.name) or self._unary_handler(
                getattr(servicer, method.name),
                GetMessageClass(method.input_type),
                method.name,
                needs_right=service is not HEALTH,
            )
        return grpc.method_handlers_generic_handler(service.full_name, handlers)

    def _unary_handler(
        self,
        function: Callable[[Any], Message | Awaitable[Message]],
        request: type[Message],
        method: str,
        *,
        needs_right: bool,
    ) -> MethodHandler:
        """A handler that checks the caller's right, if the method needs one, and calls the servicer's method."""

        async def handle(_: object, context: Context) -> bytes:
            try:
                access = self._authorize(context, right_of(method)) if needs_right else FULL_ACCESS
                payload = await self._receive(context)
                _check_deadline(context)
                message = _parse(request, payload)
                if (model := concerned_model(method, message)) is not None:
                    self._handler.check_right(access, right_of(method), model)
                answer = function(message)
                response = answer if isinstance(answer, Message) else await answer
                keep_covered(access, method, response)
                return response.SerializeToString()
            except ServiceError as error:
                await _abort(context, error)
            except Exception:  # noqa: BLE001 # _log_unexpected logs it
                await _abort(context, _log_unexpected(method))

        return grpc.stream_unary_rpc_method_handler(handle)

    async def _receive(self, context: Context) -> bytes:
        """The request message of a call."""
        try:
            message = await self._receiving.message(context.read())
        except ServiceError as error:
            self._handler.unrouted_statistics.record_failure(error.code.name, 0.0)
            raise
        if not isinstance(message, bytes):  # grpc.aio.EOF; not counted, for most such callers have hung up
            raise NoMessage
        return message

    def _authorize(self, context: Context, right: str = INFER) -> Access:
        if not self._handler.auth_required:
            return FULL_ACCESS
        return self._handler.authorize(context.invocation_metadata() or (), right)

    async def _until_stop(self, messages: AsyncGenerator[T]) -> AsyncGenerator[T]:
        """The messages of a stream. Raises Draining when the server stops: a client may keep a stream open for ever.

        A stream that sends is not cancelled, as gRPC would end it without a status; it ends after that message.
        """
        task = asyncio.current_task()
        assert task is not None
        async with contextlib.aclosing(messages):
            while not self._stopping:
                self._waiting_streams.add(task)
                try:
                    message = await anext(messages)
                except StopAsyncIteration:
                    return
                except asyncio.CancelledError:
                    if self._stopping:
                        break
                    raise
                finally:
                    self._waiting_streams.discard(task)
                yield message
        raise Draining


@contextlib.asynccontextmanager
async def _ends(context: Context, method: str) -> AsyncIterator[None]:
    """End a stream that fails with the status of its error, or with INTERNAL."""
    try:
        yield
    except grpc.aio.BaseError:  # the stream was aborted, or its client hung up
        raise
    except ServiceError as error:
        await _abort(context, error)
    except Exception:  # noqa: BLE001 # _log_unexpected logs it
        await _abort(context, _log_unexpected(method))


async def _outcome(future: asyncio.Future[bytes], request: PendingInfer | None) -> bytes:
    """The response to a request; a cancelled call takes its request out of the queue."""
    try:
        return await future
    except asyncio.CancelledError:
        if request is not None:
            request.cancel()
        raise


def _deadline(context: Context) -> float | None:
    return deadline_at(time.monotonic(), context.time_remaining())


def _check_deadline(context: Context) -> None:
    deadline = _deadline(context)
    if deadline is not None and deadline <= time.monotonic():
        raise DeadlineExceeded("the deadline had passed when the request arrived")


def _parse(message: type[M], payload: bytes) -> M:
    if reason := expansion(payload):
        raise InvalidArgument("", f"the message {reason}")
    try:
        return message.FromString(payload)
    except DecodeError as error:
        raise InvalidArgument("", f"the message is not a valid {message.DESCRIPTOR.full_name}") from error


def _log_unexpected(method: str) -> EngineFailed:
    """Log the exception that is being handled, and return the error for the caller."""
    error = EngineFailed()
    log.exception("call failed", method=method, error_id=error.error_id)
    return error


async def _abort(context: Context, error: ServiceError) -> NoReturn:
    await context.abort(error.code, error.message, tuple(error.trailing_metadata()))
