"""Calls of several models and engines, through both gRPC servers: one never waits for another without need."""

import math
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from service.batching.batcher import Batcher
from service.batching.scheduler import BatcherClosed
from service.core.errors import EngineFailed, NotReady
from service.core.lifecycle import Lifecycle
from service.inference.handler import InferenceHandler
from service.pb.inference_pb2 import ModelStatisticsRequest
from tests.support.local_service import Gate, local_service
from tests.support.models import add_version, doubling_model
from tests.support.requests import infer_request, outputs_of

X = np.ones((1, 4), np.float32)


def test_calls_that_arrive_together_run_on_every_engine(tmp_path: Path, grpc_server: str, gate: Gate) -> None:
    config = "max_batch_size: 1 instance_group { count: 2 kind: KIND_CPU }"
    add_version(tmp_path, "two", doubling_model(), config=config)
    with local_service(tmp_path, grpc_server) as service, ThreadPoolExecutor(8) as pool:
        for _ in range(8):
            gate.hold()
            calls = [pool.submit(service.stub.ModelInfer, infer_request("two", x=X)) for _ in range(8)]
            for done in range(7):
                gate.wait_for(done + 2)
                gate.let_through()
            gate.open()
            for call in calls:
                call.result()


def test_a_run_of_one_model_does_not_hold_up_a_call_of_another(
    toys: Path, grpc_server: str, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.inference.handler.ALONE_SECONDS", math.inf)
    index = np.zeros((1, 1), np.int64)
    with local_service(toys, grpc_server) as service, ThreadPoolExecutor(8) as pool:
        for _ in range(5):  # from now on the native server knows that these runs are short, and that both have calls
            service.stub.ModelInfer(infer_request("lookup", index=index))
            service.stub.ModelInfer(infer_request("double", x=X))
        gate.hold()
        held = pool.submit(service.stub.ModelInfer, infer_request("double", x=X))
        gate.wait_for(1)
        other = pool.submit(service.stub.ModelInfer, infer_request("lookup", index=index))
        gate.wait_for(2)
        gate.open()
        held.result()
        other.result()


def test_a_client_that_has_its_answer_finds_it_counted(toys: Path, grpc_server: str) -> None:
    with local_service(toys, grpc_server) as service:
        for count in range(1, 101):
            service.stub.ModelInfer(infer_request("double", x=X))
            (found,) = service.stub.ModelStatistics(ModelStatisticsRequest(name="double")).model_stats
            assert found.inference_count == count


def test_many_callers_of_a_model_that_does_not_batch_are_not_refused(
    tmp_path: Path, grpc_server: str, gate: Gate
) -> None:
    add_version(tmp_path, "single", doubling_model(), config="max_batch_size: 1")
    with local_service(tmp_path, grpc_server) as service, ThreadPoolExecutor(200) as pool:
        gate.hold()
        calls = [pool.submit(service.stub.ModelInfer, infer_request("single", x=X)) for _ in range(200)]
        gate.wait_for(1)
        gate.open()
        assert all((outputs_of(call.result())["y"] == 2).all() for call in calls)


@pytest.mark.parametrize("queued", ["a burst", "one call"])
def test_a_call_whose_version_was_replaced_after_the_look_up_is_looked_up_again(toys: Path, queued: str) -> None:
    """The first look-up finds a version whose batcher is closed; the request must reach the one that serves now."""
    with local_service(toys, "aio") as service:
        registry = service.server.registry
        current = registry.get("double")
        closed = Batcher(current.batcher._engines, current.batcher.policy, current.statistics, name="closed")
        closed.close()
        sink = _Sink()
        handler = InferenceHandler(registry, Lifecycle(), max_message_bytes=2**20)
        payload = infer_request("double", x=X).SerializeToString()
        request = handler.decode(payload, sink, None, arrived=0.0, deadline=None)
        assert request is not None
        with pytest.raises(BatcherClosed):
            closed.submit(request)
        request.model = replace(current, batcher=closed)
        if queued == "a burst":
            handler.submit_burst([request], receive=lambda: True)
        else:
            handler._queue(request)
        assert sink.done.result(10) and request.model is current


def test_a_call_that_cannot_be_looked_up_again_fails_alone(toys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An exception there would end the native server's thread, and lose the other calls that arrived with it."""
    with local_service(toys, "aio") as service:
        registry = service.server.registry
        current = registry.get("double")
        closed = Batcher(current.batcher._engines, current.batcher.policy, current.statistics, name="closed")
        closed.close()
        handler = InferenceHandler(registry, Lifecycle(), max_message_bytes=2**20)
        payload = infer_request("double", x=X).SerializeToString()
        sinks = [_Sink(), _Sink()]
        burst = [handler.decode(payload, sink, None, arrived=0.0, deadline=None) for sink in sinks]
        requests = [request for request in burst if request is not None]
        for request in requests:
            request.model = replace(current, batcher=closed)
        monkeypatch.setattr("service.inference.handler.decode_inputs", _fail)
        monkeypatch.setattr(handler._cache, "find", lambda _: None)
        handler.submit_burst(requests, receive=None)
        assert all(isinstance(sink.done.exception(10), EngineFailed) for sink in sinks)


def _fail(*_: object) -> None:
    raise ZeroDivisionError


def test_a_call_is_failed_if_its_model_broke_after_the_look_up(toys: Path) -> None:
    with local_service(toys, "aio") as service:
        sink = _Sink()
        handler = InferenceHandler(service.server.registry, Lifecycle(), max_message_bytes=2**20)
        payload = infer_request("double", x=X).SerializeToString()
        request = handler.decode(payload, sink, None, arrived=0.0, deadline=None)
        assert request is not None
        request.model.batcher.broken = "the engine is lost"
        handler.submit_burst([request], receive=lambda: True)
        assert isinstance(sink.done.exception(10), NotReady)


def test_in_a_burst_for_two_versions_only_the_last_batch_may_hold_up_the_thread(
    toys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one is queued first, and so never waits for a batch that runs on the thread that received both."""
    submitted: list[tuple[str, bool]] = []
    monkeypatch.setattr(
        Batcher,
        "submit_burst",
        lambda batcher, _, __, receive, **___: submitted.append((batcher.name, receive is None)),
    )
    with local_service(toys, "aio") as service:
        handler = InferenceHandler(service.server.registry, Lifecycle(), max_message_bytes=2**20)
        burst = []
        for message in (infer_request("double", x=X), infer_request("lookup", index=np.zeros((1, 1), np.int64))):
            request = handler.decode(message.SerializeToString(), _Sink(), None, arrived=0.0, deadline=None)
            assert request is not None
            burst.append(request)
        handler.submit_burst(burst, lambda: True)
    assert submitted == [("lookup", True), ("double", False)]


class _Sink:
    """Keeps the response or the error of one call."""

    def __init__(self) -> None:
        self.done: Future[bytes] = Future()

    def respond(self, call: object, payload: bytes) -> None:
        self.done.set_result(payload)

    def fail(self, call: object, error: Exception) -> None:
        self.done.set_exception(error)
