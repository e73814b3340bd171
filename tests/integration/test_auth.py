"""Authentication and authorization by token, on both gRPC servers."""

import queue
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
from tests.support.tokens import CALLER, EXPIRED, LIMITED, OPERATOR, token_line
from tests.support.waiting import wait_until

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


def bearer(token: str) -> list[tuple[str, str]]:
    return [("authorization", f"Bearer {token}")]


def test_a_right_for_one_model_is_a_right_for_no_other_existing_or_not(service: LocalService) -> None:
    classify = classifier_pb2_grpc.ImageClassifierStub(service.channel).Classify
    stub = service.stub
    assert stub.ModelInfer(infer_request("double", x=X), metadata=bearer(LIMITED)).model_name == "double"
    assert stub.ModelMetadata(pb.ModelMetadataRequest(name="double"), metadata=bearer(LIMITED)).name == "double"
    for name in ("lookup", "absent"):
        errors = [
            refusal(stub.ModelInfer, infer_request(name, x=X), f"Bearer {LIMITED}"),
            refusal(classify, classifier_pb2.ClassifyRequest(model_name=name), f"Bearer {LIMITED}"),
            refusal(stub.ModelReady, pb.ModelReadyRequest(name=name), f"Bearer {LIMITED}"),
            refusal(stub.ModelConfig, pb.ModelConfigRequest(name=name), f"Bearer {LIMITED}"),
            refusal(stub.ModelStatistics, pb.ModelStatisticsRequest(name=name), f"Bearer {LIMITED}"),
        ]
        assert {(error.code, error.text) for error in errors} == {
            (grpc.StatusCode.PERMISSION_DENIED, f"the token lacks the right 'infer:{name}'")
        }
    assert service.server.handler.unrouted_statistics.codes["PERMISSION_DENIED"] == 10
    error = refusal(classify, classifier_pb2.ClassifyRequest(model_name="double"), f"Bearer {LIMITED}")
    assert error.code is grpc.StatusCode.INVALID_ARGUMENT, "it passed the check, and has no images"


def test_a_call_that_names_no_model_needs_the_right_for_every_model_only_if_it_is_an_inference(
    service: LocalService,
) -> None:
    stub = service.stub
    assert stub.ServerMetadata(pb.ServerMetadataRequest(), metadata=bearer(LIMITED)).name == "simplecnn"
    assert stub.ServerReady(pb.ServerReadyRequest(), metadata=bearer(LIMITED)).ready
    error = refusal(stub.ModelInfer, infer_request("", x=X), f"Bearer {LIMITED}")
    assert (error.code, error.text) == (grpc.StatusCode.PERMISSION_DENIED, "the token lacks the right 'infer'")


def test_lists_have_only_the_models_that_the_token_names(service: LocalService) -> None:
    for token, names in ((LIMITED, {"double"}), (CALLER, {"double", "lookup"})):
        index = service.stub.RepositoryIndex(pb.RepositoryIndexRequest(), metadata=bearer(token))
        assert {model.name for model in index.models} == names
        statistics = service.stub.ModelStatistics(pb.ModelStatisticsRequest(), metadata=bearer(token))
        assert {model.name for model in statistics.model_stats} == names


def test_control_of_one_model_is_neither_of_another_nor_of_the_server(service: LocalService) -> None:
    stub = service.stub
    unload = pb.RepositoryModelUnloadRequest(model_name="lookup")
    error = refusal(stub.RepositoryModelUnload, unload, f"Bearer {LIMITED}")
    assert (error.code, error.text) == (
        grpc.StatusCode.PERMISSION_DENIED,
        "the token lacks the right 'control:lookup'",
    )
    assert "'control'" in refusal(stub.LogSettings, pb.LogSettingsRequest(), f"Bearer {LIMITED}").text
    stub.RepositoryModelUnload(pb.RepositoryModelUnloadRequest(model_name="double"), metadata=bearer(LIMITED))


def test_each_message_of_a_stream_is_checked_for_its_model(service: LocalService) -> None:
    requests = [infer_request("lookup", "1", index=np.ones((1, 1), np.int64)), infer_request("double", "2", x=X)]
    answers = {
        answer.infer_response.id: answer.error_message
        for answer in service.stub.ModelStreamInfer(iter(requests), metadata=bearer(LIMITED))
    }
    assert answers == {"1": "the token lacks the right 'infer:lookup'", "2": ""}


def test_a_token_that_is_revoked_is_refused_on_open_connections_and_streams_too(
    service: LocalService, tokens_file: Path
) -> None:
    messages: queue.Queue[pb.ModelInferRequest] = queue.Queue()
    answers = service.stub.ModelStreamInfer(iter(messages.get, None), metadata=bearer(CALLER))
    request = infer_request("double", x=X)
    messages.put(request)
    assert next(answers).error_message == ""
    assert service.stub.ModelInfer(request, metadata=bearer(CALLER)).model_name == "double"
    tokens_file.write_text(token_line("new", "infer"))

    def accepted() -> bool:
        try:
            service.stub.ModelInfer(request, metadata=bearer("new"))
        except grpc.RpcError:
            return False
        return True

    wait_until(accepted, "the new token is accepted")
    assert refusal(service.stub.ModelInfer, request, f"Bearer {CALLER}").code is grpc.StatusCode.UNAUTHENTICATED
    messages.put(request)
    assert "needs a valid token" in next(answers).error_message
    answers.cancel()
    messages.put(None)  # type: ignore[arg-type] # ends the iteration


def test_the_health_service_needs_no_token(service: LocalService) -> None:
    health = health_pb2_grpc.HealthStub(service.channel)
    assert health.Check(health_pb2.HealthCheckRequest()).status == health_pb2.HealthCheckResponse.SERVING


def test_our_client_sends_its_token(service: LocalService) -> None:
    with Client(service.address, token=CALLER) as client:
        assert client.models()
    assert run_command("service.client", "--url", service.address, "--token", CALLER, "models").returncode == 0
    refused = run_command("service.client", "--url", service.address, "models")
    assert refused.returncode == 1 and "UNAUTHENTICATED" in refused.stderr
