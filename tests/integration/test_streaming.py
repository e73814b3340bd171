"""ModelStreamInfer, on both gRPC servers: order of answers, errors, batching, cancellation, backpressure and stop."""

import asyncio
import queue
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest

from service.pb import inference_pb2 as pb
from service.transport.grpc import streaming
from service.transport.grpc.aio_server import AioServer
from tests.support.local_service import Gate, LocalService, local_service
from tests.support.requests import infer_request, outputs_of
from tests.support.waiting import wait_until

X = np.arange(4, dtype=np.float32).reshape(1, 4)


@pytest.fixture
def service(toys: Path, grpc_server: str) -> Iterator[LocalService]:
    with local_service(toys, grpc_server) as service:
        yield service


class Stream:
    """A stream whose requests the test sends one by one."""

    def __init__(self, service: LocalService, **call: object) -> None:
        self._requests: queue.Queue[pb.ModelInferRequest | None] = queue.Queue()
        self.answers = service.stub.ModelStreamInfer(iter(self._requests.get, None), **call)

    def send(self, model: str, request_id: str, **inputs: np.ndarray) -> None:
        self._requests.put(infer_request(model, request_id, **inputs))

    def close(self) -> None:
        self._requests.put(None)


def test_every_request_is_answered_under_its_id(service: LocalService) -> None:
    stream = Stream(service)
    for index in range(12):
        stream.send("double", str(index), x=X + index)
    stream.close()
    answers = {answer.infer_response.id: answer for answer in stream.answers}
    assert len(answers) == 12
    for index in range(12):
        np.testing.assert_array_equal(outputs_of(answers[str(index)].infer_response)["y"], 2 * (X + index))


def test_an_error_answers_its_request_and_the_stream_goes_on(service: LocalService) -> None:
    stream = Stream(service)
    stream.send("absent", "1", x=X)
    stream.send("double", "2", x=X.astype(np.int32))
    stream.send("lookup", "3", index=np.array([[99]]))
    stream.send("double", "4", x=X)
    stream.close()
    answers = {answer.infer_response.id: answer for answer in stream.answers}
    assert "model 'absent' is not found" in answers["1"].error_message
    assert "datatype expected FP32, got INT32" in answers["2"].error_message
    assert "error id" in answers["3"].error_message and answers["3"].infer_response.model_name == "lookup"
    assert not answers["4"].error_message


def test_answers_come_in_the_order_of_completion(toys: Path, grpc_server: str, gate: Gate) -> None:
    with local_service(toys, grpc_server) as service:
        gate.hold()
        stream = Stream(service)
        stream.send("lookup", "slow", index=np.array([[1]]))
        gate.wait_for(1)
        stream.send("absent", "quick", x=X)
        assert next(stream.answers).infer_response.id == "quick"
        gate.open()
        assert next(stream.answers).infer_response.id == "slow"
        stream.close()
        assert list(stream.answers) == []


def test_requests_of_one_stream_share_a_batch(toys: Path, grpc_server: str, gate: Gate) -> None:
    with local_service(toys, grpc_server) as service:
        batcher = service.server.registry.get("double").batcher
        gate.hold()
        stream = Stream(service)
        stream.send("double", "first", x=X)
        gate.wait_for(1)
        for index in range(5):
            stream.send("double", str(index), x=X)
        wait_until(lambda: batcher.queued_rows == 5, "five rows are queued")
        gate.open()
        stream.close()
        assert len(list(stream.answers)) == 6
        assert gate.sizes == [1, 5]


def test_queued_requests_of_a_cancelled_stream_never_reach_the_engine(toys: Path, grpc_server: str, gate: Gate) -> None:
    with local_service(toys, grpc_server) as service:
        model = service.server.registry.get("double")
        gate.hold()
        stream = Stream(service)
        for index in range(4):
            stream.send("double", str(index), x=X)
        wait_until(lambda: model.batcher.pending_rows == 4, "all requests are pending")
        running = sum(gate.sizes)
        stream.answers.cancel()
        wait_until(lambda: model.batcher.queued_rows == 0, "the queue is empty")
        gate.open()
        wait_until(lambda: model.batcher.pending_rows == 0, "the engine is free")
        assert sum(gate.sizes) == running
        assert model.statistics.codes["CANCELLED"] == 4 - running


def test_a_stream_reads_no_more_requests_than_may_be_in_flight(
    toys: Path, grpc_server: str, monkeypatch: pytest.MonkeyPatch, gate: Gate
) -> None:
    monkeypatch.setattr(streaming, "MAX_STREAM_REQUESTS", 8)
    with local_service(toys, grpc_server) as service:
        model = service.server.registry.get("double")
        gate.hold()
        stream = Stream(service)
        for index in range(20):
            stream.send("double", str(index), x=X)
        wait_until(lambda: model.batcher.pending_rows == 8, "8 requests are in flight")
        threading.Event().wait(0.1)
        assert model.batcher.pending_rows == 8
        gate.open()
        stream.close()
        assert len(list(stream.answers)) == 20


def test_a_client_can_ask_for_an_error_as_the_status_of_the_stream(service: LocalService) -> None:
    stream = Stream(service, metadata=(("triton_grpc_error", "true"),))
    stream.send("absent", "1", x=X)
    with pytest.raises(grpc.RpcError) as caught:
        next(stream.answers)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def test_a_deadline_applies_to_the_whole_stream(service: LocalService) -> None:
    stream = Stream(service, timeout=0.3)
    stream.send("double", "1", x=X)
    assert next(stream.answers).infer_response.id == "1"
    with pytest.raises(grpc.RpcError) as caught:
        next(stream.answers)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


def test_a_stopping_server_ends_open_streams_at_once(toys: Path, grpc_server: str) -> None:
    service = LocalService(toys, grpc_server).ready()
    stream = Stream(service)
    stream.send("double", "1", x=X)
    assert next(stream.answers).infer_response.id == "1"
    finish = service.begin_shut_down()
    with pytest.raises(grpc.RpcError) as caught:
        next(stream.answers)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    finish()


def test_a_stop_while_a_stream_sends_ends_it_after_that_message(toys: Path) -> None:
    """Cancelled there, it would have no status, and keep the server from closing for the whole timeout."""

    class Aborted(grpc.aio.AbortError):
        """The stream's end."""

    class Context:
        """A call's context that keeps its status."""

        def invocation_metadata(self) -> tuple[()]:
            return ()

        def time_remaining(self) -> None:
            return None

        async def abort(self, code: grpc.StatusCode, *_: object) -> None:
            codes.append(code)
            raise Aborted

    codes: list[grpc.StatusCode] = []

    async def requests() -> AsyncIterator[bytes]:
        yield infer_request("double", x=X).SerializeToString()
        await asyncio.Event().wait()

    async def scenario(server: AioServer) -> None:
        sends, sent = asyncio.Event(), asyncio.Event()

        async def call() -> None:
            async for _ in server._infer_stream(requests(), Context()):  # type: ignore[arg-type]
                sends.set()
                await sent.wait()

        task = asyncio.create_task(call())
        await sends.wait()
        await server.stop(0.0)
        sent.set()
        with pytest.raises(Aborted):
            await task

    with local_service(toys, "aio") as service:
        server = service.server._grpc._aio
        assert server is not None
        service._call(scenario(server))
    assert codes == [grpc.StatusCode.UNAVAILABLE]
