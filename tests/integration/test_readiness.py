"""/readyz, ServerReady and health agree on ready, whatever else lies in the repository."""

import os
import shutil
from pathlib import Path

import grpc
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from service.pb import health_pb2, health_pb2_grpc
from service.pb import inference_pb2 as pb
from tests.support.disk import deny
from tests.support.http import get
from tests.support.local_service import LocalService, local_service
from tests.support.models import add_version
from tests.support.requests import infer_request
from tests.support.waiting import wait_until

X = np.ones((1, 4), np.float32)


@pytest.fixture
def mixed(toys: Path) -> Path:
    """The toy models beside everything that a repository may hold and that cannot be served."""
    add_version(toys, "broken", b"no graph")
    add_version(toys, os.fsdecode(b"\xe9t\xe9"), b"no graph")
    for name in ("notes", "lost+found", ".git"):
        (toys / name).mkdir()
    (toys / "gone").symlink_to(toys / "nothing")
    os.mkfifo(toys / "pipe")
    return toys


def health(service: LocalService) -> dict[str, bool]:
    statuses = health_pb2_grpc.HealthStub(service.channel).List(health_pb2.HealthListRequest()).statuses
    return {name: status.status == health_pb2.HealthCheckResponse.SERVING for name, status in statuses.items()}


def is_ready(service: LocalService) -> bool:
    """Whether the server is ready; all three ways of asking must agree."""
    ready: bool = service.stub.ServerReady(pb.ServerReadyRequest()).ready
    status, reason = get(service.server.metrics_url.replace("/metrics", "/readyz"))
    assert (status == 200, reason == "ready\n") == (ready, ready)
    wait_until(lambda: health(service)[""] == ready, "health agrees")
    return ready


def test_models_that_are_refused_take_no_other_model_out_of_service(mixed: Path, grpc_server: str) -> None:
    with local_service(mixed, grpc_server) as service:
        assert is_ready(service)
        assert service.stub.ModelInfer(infer_request("double", x=X)).model_version == "1"
        refused = {"broken", r"\xe9t\xe9", "gone"}
        assert {name for name, serving in health(service).items() if not serving} == refused
        index = service.stub.RepositoryIndex(pb.RepositoryIndexRequest()).models
        assert {model.name for model in index if model.reason} == refused
        status, text = get(service.server.metrics_url)
    assert status == 200
    (family,) = [family for family in text_string_to_metric_families(text) if family.name == "inference_model_refused"]
    assert {sample.labels["model"] for sample in family.samples} == refused


def test_with_strict_readiness_every_model_must_answer(mixed: Path, grpc_server: str) -> None:
    with local_service(mixed, grpc_server, strict_readiness=True) as service:
        assert not is_ready(service)
        assert service.stub.ModelInfer(infer_request("double", x=X)).model_version == "1"
        for name in ("broken", os.fsdecode(b"\xe9t\xe9")):
            shutil.rmtree(mixed / name)
        (mixed / "gone").unlink()
        service.server.reconciler.reconcile()
        assert is_ready(service), "folders that are no models do not count"


def test_a_served_model_that_becomes_unreadable_answers_and_the_server_stays_ready(
    toys: Path, grpc_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with local_service(toys, grpc_server) as service:
        with monkeypatch.context() as patch:
            deny(patch, toys / "double")
            service.server.reconciler.reconcile()
            assert is_ready(service)
            assert service.stub.ModelInfer(infer_request("double", x=X)).model_version == "1"
            metadata = service.stub.ModelMetadata(pb.ModelMetadataRequest(name="double"))
            assert list(metadata.versions) == ["1"]
        service.server.reconciler.reconcile()
        assert not any(model.reason for model in service.stub.RepositoryIndex(pb.RepositoryIndexRequest()).models)


def test_a_server_whose_models_are_all_refused_is_not_ready(tmp_path: Path, grpc_server: str) -> None:
    add_version(tmp_path, "broken", b"no graph")
    with local_service(tmp_path, grpc_server) as service:
        assert not is_ready(service)
        with pytest.raises(grpc.RpcError):
            service.stub.ModelInfer(infer_request("broken", x=X))
