"""Model control on both gRPC servers: load, unload and log settings."""

import urllib.request
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest

from service.core import logs
from service.pb import health_pb2, health_pb2_grpc
from service.pb import inference_pb2 as pb
from tests.support.local_service import LocalService, local_service
from tests.support.models import add_version, doubling_model
from tests.support.refusal import Refusal
from tests.support.requests import infer_request

X = np.arange(4, dtype=np.float32).reshape(1, 4)


@pytest.fixture
def service(toys: Path, grpc_server: str) -> Iterator[LocalService]:
    with local_service(toys, grpc_server, enable_model_control=True) as service:
        yield service


def states(service: LocalService) -> dict[str, tuple[str, str]]:
    """State and reason of each version of `double`."""
    index = service.stub.RepositoryIndex(pb.RepositoryIndexRequest())
    return {model.version: (model.state, model.reason) for model in index.models if model.name == "double"}


def load(service: LocalService, name: str = "double") -> None:
    service.stub.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name=name))


def unload(service: LocalService, name: str = "double") -> None:
    service.stub.RepositoryModelUnload(pb.RepositoryModelUnloadRequest(model_name=name))


def health_status(service: LocalService, name: str) -> int:
    health = health_pb2_grpc.HealthStub(service.channel)
    return int(health.Check(health_pb2.HealthCheckRequest(service=name)).status)


def test_an_unloaded_model_stays_unloaded_until_it_is_loaded(service: LocalService) -> None:
    unload(service)
    assert states(service) == {"1": ("UNAVAILABLE", "unloaded")}
    service.server.reconciler.reconcile()
    assert states(service) == {"1": ("UNAVAILABLE", "unloaded")}, "reconciling loaded it again"
    with pytest.raises(grpc.RpcError) as caught:
        service.stub.ModelInfer(infer_request("double", x=X))
    error = Refusal(caught.value)
    assert error.code is grpc.StatusCode.UNAVAILABLE and "unloaded" in error.text
    assert not service.stub.ModelReady(pb.ModelReadyRequest(name="double")).ready
    assert health_status(service, "double") == health_pb2.HealthCheckResponse.NOT_SERVING
    assert service.stub.ServerReady(pb.ServerReadyRequest()).ready, "an unloaded model must not make the server unready"
    with urllib.request.urlopen(service.server.metrics_url) as page:
        assert 'inference_model_refused{model="double"' not in page.read().decode(), (
            "an unloaded model is not a refused one"
        )
    load(service)
    assert states(service) == {"1": ("READY", "")}
    assert service.stub.ModelInfer(infer_request("double", x=X)).model_version == "1"


def test_a_server_without_any_loaded_model_is_not_ready(service: LocalService) -> None:
    unload(service)
    unload(service, "lookup")
    assert not service.stub.ServerReady(pb.ServerReadyRequest()).ready
    assert health_status(service, "") == health_pb2.HealthCheckResponse.NOT_SERVING


def test_load_loads_new_versions_and_reports_a_refused_one(service: LocalService, toys: Path) -> None:
    add_version(toys, "double", doubling_model(), version=2)
    load(service)
    assert service.stub.ModelInfer(infer_request("double", x=X)).model_version == "2"
    add_version(toys, "double", b"no model", version=3)
    with pytest.raises(grpc.RpcError) as caught:
        load(service)
    error = Refusal(caught.value)
    assert error.code is grpc.StatusCode.UNAVAILABLE
    assert "version 3: model.onnx cannot be opened" in error.text and "version 2 keeps serving" in error.text
    assert service.stub.ModelInfer(infer_request("double", x=X)).model_version == "2"


def test_load_tries_a_refused_version_again(service: LocalService, toys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The poll tries a refused version again only when its files change."""
    add_version(toys, "double", doubling_model(), version=2)
    with monkeypatch.context() as patch:
        patch.setattr(service.server.reconciler, "_load", lambda *_: 1 / 0)
        with pytest.raises(grpc.RpcError):
            load(service)
    service.server.reconciler.reconcile()
    assert states(service)["2"][0] == "UNAVAILABLE"
    load(service)
    assert states(service) == {"2": ("READY", "")}


@pytest.mark.parametrize("call", [load, unload])
def test_an_unknown_model_is_not_found(service: LocalService, call: type) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        call(service, "nobody")
    error = Refusal(caught.value)
    assert error.code is grpc.StatusCode.NOT_FOUND and "nobody" in error.text


def test_a_request_with_the_name_in_kserves_field_is_refused(service: LocalService) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        service.stub.RepositoryModelLoad(pb.RepositoryModelLoadRequest(repository_name="double"))
    error = Refusal(caught.value)
    assert error.code is grpc.StatusCode.INVALID_ARGUMENT and error.fields() == ["model_name"]


@pytest.mark.parametrize("parameter", ["config", "file:1/model.onnx"])
def test_override_parameters_are_refused(service: LocalService, parameter: str) -> None:
    request = pb.RepositoryModelLoadRequest(model_name="double")
    request.parameters[parameter].string_param = "{}"
    with pytest.raises(grpc.RpcError) as caught:
        service.stub.RepositoryModelLoad(request)
    error = Refusal(caught.value)
    assert error.code is grpc.StatusCode.UNIMPLEMENTED
    assert parameter in error.text and "write the files there" in error.text


def log_settings(service: LocalService, **settings: bool) -> dict[str, bool]:
    request = pb.LogSettingsRequest()
    for name, value in settings.items():
        request.settings[name].bool_param = value
    response = service.stub.LogSettings(request)
    return {name: setting.bool_param for name, setting in response.settings.items()}


def test_log_settings_are_read_and_changed(service: LocalService) -> None:
    assert log_settings(service) == {"log_info": True, "log_warning": True, "log_error": True}
    try:
        assert log_settings(service, log_info=False)["log_info"] is False
        assert not logs.enabled("log_info") and logs.enabled("log_error")
    finally:
        assert log_settings(service, log_info=True)["log_info"] is True
    with pytest.raises(grpc.RpcError) as caught:
        log_settings(service, log_file=True)
    assert Refusal(caught.value).code is grpc.StatusCode.UNIMPLEMENTED


def test_changing_log_settings_needs_model_control(toys: Path, grpc_server: str) -> None:
    with local_service(toys, grpc_server) as service:
        assert log_settings(service)["log_info"]
        with pytest.raises(grpc.RpcError) as caught:
            log_settings(service, log_info=False)
        assert "--enable-model-control" in Refusal(caught.value).text
        assert logs.enabled("log_info")
