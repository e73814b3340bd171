"""An engine that breaks: readiness, health, pending and later requests, and the other models."""

import threading
from pathlib import Path

import grpc
import numpy as np
import pytest

from service.pb import health_pb2, health_pb2_grpc
from service.pb import inference_pb2 as pb
from service.runtime.session import Engine
from tests.support.http import get
from tests.support.local_service import LocalService
from tests.support.models import add_version, copy_repository, doubling_model
from tests.support.refusal import Refusal
from tests.support.requests import infer_request

X = np.arange(4, dtype=np.float32).reshape(1, 4)
MODEL = "mnist-simplecnn"
IMAGE = np.zeros((1, 28, 28, 1), np.uint8)


def test_a_broken_engine_makes_the_server_unready_and_its_model_unavailable(
    published: Path, tmp_path: Path, grpc_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = copy_repository(published, tmp_path / "models")
    add_version(repository, "double", doubling_model(), config="max_batch_size: 8 dynamic_batching { }")
    broken = threading.Event()
    run = Engine.run

    def fail_if_broken(engine: Engine, inputs: tuple[np.ndarray, ...]) -> object:
        if broken.is_set() and inputs[0].dtype == np.uint8:
            raise RuntimeError("CUDA error 719: unspecified launch failure")
        return run(engine, inputs)

    monkeypatch.setattr(Engine, "run", fail_if_broken)
    service = LocalService(repository, grpc_server).ready()
    try:
        health = health_pb2_grpc.HealthStub(service.channel)
        watch = health.Watch(health_pb2.HealthCheckRequest(service=MODEL))
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        broken.set()
        with pytest.raises(grpc.RpcError) as caught:
            service.stub.ModelInfer(infer_request(MODEL, images=IMAGE))
        first = Refusal(caught.value)
        assert first.code is grpc.StatusCode.INTERNAL and "CUDA" not in first.text
        assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
        refused = f'inference_model_refused{{model="{MODEL}",reason="engine",version="1"}} 1.0'
        assert refused in get(service.server.metrics_url)[1]
        with pytest.raises(grpc.RpcError) as caught:
            service.stub.ModelInfer(infer_request(MODEL, images=IMAGE))
        assert Refusal(caught.value).code is grpc.StatusCode.UNAVAILABLE
        status, reason = get(service.server.metrics_url.replace("/metrics", "/readyz"))
        assert status == 503 and "the engine is broken" in reason
        assert not service.stub.ModelReady(pb.ModelReadyRequest(name=MODEL)).ready
        (index,) = [m for m in service.stub.RepositoryIndex(pb.RepositoryIndexRequest()).models if m.name == MODEL]
        assert index.state == "UNAVAILABLE" and "unspecified launch failure" in index.reason
        assert service.stub.ModelInfer(infer_request("double", x=X)).model_name == "double", (
            "the other models must serve"
        )
        watch.cancel()
    finally:
        service.stop()
