"""The whole path: a model that training published, served by the service, called by other projects' clients."""

import asyncio
import json
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from numpy.typing import NDArray

from service.client import Client
from tests.conftest import outside
from tests.support.processes import service_process
from tests.support.requests import infer_request

TestImages = tuple[NDArray[np.uint8], NDArray[np.uint8]]
MODEL = "mnist-simplecnn"


@pytest.fixture
def images_file(tmp_path: Path, test_images: TestImages) -> str:
    """The held-out images in a file that scripts can read."""
    np.savez(tmp_path / "images.npz", images=test_images[0])
    return str(tmp_path / "images.npz")


def accuracy(answers: Any, labels: NDArray[np.uint8]) -> float:
    return float((np.array(answers).argmax(1) == labels).mean())


def test_tritonclient_measures_the_accuracy_that_training_reported(
    published: Path, grpc_server: str, images_file: str, test_images: TestImages
) -> None:
    reported = json.loads((published / MODEL / "1" / "manifest.json").read_text())["metrics"]["test_accuracy"]
    with service_process(published, "--grpc-server", grpc_server) as service:
        sync: dict[str, Any] = outside("triton_sync.py", service.address, images_file)
        asynchronous: dict[str, Any] = outside("triton_asyncio.py", service.address, images_file)
        assert service.stop() == 0
    assert sync["live"] and sync["ready"] and sync["model_ready"] and asynchronous["ready"]
    assert sync["server"]["name"] == "simplecnn"
    assert sync["metadata"]["inputs"] == [{"name": "images", "datatype": "UINT8", "shape": ["-1", "28", "28", "1"]}]
    assert sync["metadata"]["versions"] == ["1"] and sync["metadata"]["platform"] == "onnxruntime_onnx"
    assert sync["config"]["config"]["max_batch_size"] == 64
    assert sync["index"]["models"] == [{"name": MODEL, "version": "1", "state": "READY"}]
    assert sync["id"] == "r-7" and sync["unknown"] == "StatusCode.NOT_FOUND" and sync["counted"]
    assert accuracy(sync["probabilities"], test_images[1]) == pytest.approx(reported)
    assert accuracy(asynchronous["probabilities"], test_images[1]) == pytest.approx(reported)
    np.testing.assert_allclose(sync["alone"], sync["probabilities"][:20], atol=1e-5)
    np.testing.assert_allclose(asynchronous["probabilities"], sync["probabilities"], atol=1e-5)


def test_grpcs_own_health_and_reflection_clients_work(published: Path, grpc_server: str) -> None:
    with service_process(published, "--grpc-server", grpc_server) as service:
        seen: dict[str, Any] = outside("grpc_tools_clients.py", service.address)
    assert seen["statuses"] == {"": "SERVING", MODEL: "SERVING", "liveness": "SERVING"}
    assert (seen["unknown"], seen["watched"]) == ("NOT_FOUND", "SERVICE_UNKNOWN")
    assert {"inference.GRPCInferenceService", "grpc.health.v1.Health"} <= set(seen["services"])
    assert "ModelInfer" in seen["methods"]


def test_more_calls_than_the_queue_holds_are_answered_or_refused(
    published: Path, grpc_server: str, test_images: TestImages
) -> None:
    """1,500 concurrent calls: more than gRPC holds by default, and more than the queue holds."""
    payload = infer_request(MODEL, images=test_images[0][:1]).SerializeToString()

    async def call_all(address: str) -> set[str]:
        async with grpc.aio.insecure_channel(address) as channel:
            infer: Any = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
            calls = [infer(payload, timeout=60) for _ in range(1500)]
            return {(await call.code()).name for call in calls}

    with service_process(published, "--grpc-server", grpc_server) as service:
        seen = asyncio.run(call_all(service.address))
        assert "OK" in seen
        assert seen <= {"OK", "RESOURCE_EXHAUSTED"}
        with Client(service.address) as client:
            assert client.serving()
        assert service.stop() == 0
