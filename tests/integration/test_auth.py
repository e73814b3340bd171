"""Authentication and authorization by token, on both gRPC servers."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from service.client import Client
from service.pb import classifier_pb2, classifier_pb2_grpc, health_pb2, health_pb2_grpc
from service.pb import inference_pb2 as pb
from tests.support.local_service import LocalService, local_service
from tests.support.processes import run_command
from tests.support.refusal import Refusal
from tests.support.requests import infer_request
from tests.support.tokens import CALLER, EXPIRED, OPERATOR

X = np.arange(4, dtype=np.float32).reshape(1, 4)


@pytest.fixture
def service(toys: Path, grpc_server: str, tokens_file: Path) -> Iterator[LocalService]:
    with local_service(toys, grpc_server, tokens_file=tokens_file, enable_model_control=True) as service:
        yield service


def refusal(call: Any, request: object, authorization: str | None) -> Refusal:
    metadata = None if authorization is None else [("authorization", authorization)]
    with pytest.raises(grpc.RpcError) as caught:
        call(request, metadata=metadata)
    return Refusal(caught.value)


INVALID = [None, "", "Bearer ", "Bearer unknown", f"Bearer {EXPIRED}", CALLER, f"Basic {CALLER}"]


@pytest.mark.parametrize("authorization", INVALID)
def test_a_missing_unknown_or_expired_token_gets_one_and_the_same_error(
    service: LocalService, authorization: str | None
) -> None:
    image = classifier_pb2.ClassifyRequest(model_name="double")
    classify = classifier_pb2_grpc.ImageClassifierStub(service.channel).Classify
    errors = [
        refusal(service.stub.ModelInfer, infer_request("double", x=X), authorization),
        refusal(service.stub.ModelInfer, infer_request("absent", x=X), authorization),
        refusal(service.stub.ServerMetadata, pb.ServerMetadataRequest(), authorization),
        refusal(service.stub.RepositoryModelLoad, pb.RepositoryModelLoadRequest(model_name="double"), authorization),
        refusal(classify, image, authorization),
    ]
    assert {error.code for error in errors} == {grpc.StatusCode.UNAUTHENTICATED}
    assert len({error.text for error in errors}) == 1
    assert service.server.handler.unrouted_statistics.codes["UNAUTHENTICATED"] == 5


def test_a_stream_needs_a_valid_token(service: LocalService) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        next(service.stub.ModelStreamInfer(iter([infer_request("double", x=X)])))
    assert Refusal(caught.value).code is grpc.StatusCode.UNAUTHENTICATED
    metadata = [("authorization", f"Bearer {CALLER}")]
    answer = next(service.stub.ModelStreamInfer(iter([infer_request("double", x=X)]), metadata=metadata))
    assert answer.infer_response.model_name == "double"


def test_a_valid_token_may_infer_and_needs_a_right_for_model_control(service: LocalService) -> None:
    caller, operator = ([("authorization", f"Bearer {token}")] for token in (CALLER, OPERATOR))
    assert service.stub.ModelInfer(infer_request("double", x=X), metadata=caller).model_name == "double"
    assert service.stub.ServerReady(pb.ServerReadyRequest(), metadata=caller).ready
    unload = pb.RepositoryModelUnloadRequest(model_name="double")
    error = refusal(service.stub.RepositoryModelUnload, unload, f"Bearer {CALLER}")
    assert error.code is grpc.StatusCode.PERMISSION_DENIED and "'control'" in error.text
    service.stub.RepositoryModelUnload(unload, metadata=operator)


def test_the_health_service_needs_no_token(service: LocalService) -> None:
    health = health_pb2_grpc.HealthStub(service.channel)
    assert health.Check(health_pb2.HealthCheckRequest()).status == health_pb2.HealthCheckResponse.SERVING


def test_our_client_sends_its_token(service: LocalService) -> None:
    with Client(service.address, token=CALLER) as client:
        assert client.models()
    assert run_command("service.client", "--url", service.address, "--token", CALLER, "models").returncode == 0
    refused = run_command("service.client", "--url", service.address, "models")
    assert refused.returncode == 1 and "UNAUTHENTICATED" in refused.stderr
