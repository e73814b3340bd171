"""Texts of errors on both gRPC servers: a caller that sends or mistypes long names still sees its status.

gRPC clients take 8 KiB of metadata; with more they see RESOURCE_EXHAUSTED or UNAVAILABLE instead of the status.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from service.core.errors import MAX_METADATA_BYTES
from service.pb import classifier_pb2, classifier_pb2_grpc, health_pb2, health_pb2_grpc
from service.pb import inference_pb2 as pb
from tests.support.local_service import LocalService, local_service
from tests.support.models import add_version, doubling_model
from tests.support.refusal import Refusal
from tests.support.requests import infer_request

X = np.zeros((1, 4), np.float32)
# Letters, what takes three bytes each in grpc-message, and what no log line may repeat.
LONG_NAMES = {"ascii": "name-" * 200_000, "emoji": "😀" * 5_000, "controls": "\x00\n\x1b[31m" * 5_000}


@pytest.fixture(params=LONG_NAMES)
def long_name(request: pytest.FixtureRequest) -> str:
    return LONG_NAMES[request.param]


@pytest.fixture
def service(toys: Path, grpc_server: str) -> Iterator[LocalService]:
    with local_service(toys, grpc_server) as service:
        yield service


def refusal(call: Callable[..., Any], request: Any) -> Refusal:
    """The error of the call; its text must be printable, and the text and the details within the limit."""
    with pytest.raises(grpc.RpcError) as caught:
        call(request, timeout=20)
    error = Refusal(caught.value)
    assert isinstance(caught.value, grpc.Call)
    details = sum(len(value) for _, value in caught.value.trailing_metadata() or () if isinstance(value, bytes))
    assert len(error.text.encode()) + details <= MAX_METADATA_BYTES
    assert error.text.isprintable()
    return error


def test_a_mistyped_name_among_many_long_ones_is_not_found_and_named(tmp_path: Path, grpc_server: str) -> None:
    names = [f"team-{number % 7}-{'segmentation-' * 8}{number:04d}" for number in range(100)]
    for name in names:
        add_version(tmp_path, name, doubling_model())
    with local_service(tmp_path, grpc_server) as service:
        wanted = names[17].replace("segmentation", "segmntation", 1)
        error = refusal(service.stub.ModelInfer, infer_request(wanted, x=X))
        assert error.code is grpc.StatusCode.NOT_FOUND
        assert error.text.index(f"there are ['{names[17][:40]}") > 0
        assert "and 92 more" in error.text
        check = health_pb2_grpc.HealthStub(service.channel).Check
        assert refusal(check, health_pb2.HealthCheckRequest(service=wanted)).code is grpc.StatusCode.NOT_FOUND


def unknown_model(name: str) -> pb.ModelInferRequest:
    return infer_request(name, x=X)


def unknown_version(name: str) -> pb.ModelInferRequest:
    request = infer_request("double", x=X)
    request.model_version = name
    return request


def unknown_input(name: str) -> pb.ModelInferRequest:
    request = infer_request("double", x=X)
    request.inputs[0].name = name
    return request


def unknown_output(name: str) -> pb.ModelInferRequest:
    request = infer_request("double", x=X)
    request.outputs.add(name=name)
    return request


def unknown_datatype(name: str) -> pb.ModelInferRequest:
    request = infer_request("double", x=X)
    request.inputs[0].datatype = name
    return request


def reserved_parameter(name: str) -> pb.ModelInferRequest:
    request = infer_request("double", x=X)
    request.parameters[f"triton_{name}"].bool_param = True
    return request


def text_as_timeout(name: str) -> pb.ModelInferRequest:
    request = infer_request("double", x=X)
    request.parameters["timeout"].string_param = name
    return request


def many_axes(name: str) -> pb.ModelInferRequest:
    request = infer_request("double", x=X)
    request.inputs[0].shape.extend([1] * len(name))
    return request


def test_a_long_name_of_nothing_is_not_found(service: LocalService, long_name: str) -> None:
    for make in (unknown_model, unknown_version):
        assert refusal(service.stub.ModelInfer, make(long_name)).code is grpc.StatusCode.NOT_FOUND, make


def test_a_long_name_in_an_invalid_request_leaves_it_an_invalid_argument(service: LocalService, long_name: str) -> None:
    for make in (unknown_input, unknown_output, unknown_datatype, reserved_parameter, text_as_timeout, many_axes):
        error = refusal(service.stub.ModelInfer, make(long_name))
        assert error.code is grpc.StatusCode.INVALID_ARGUMENT, make
        (field,) = error.fields()
        assert field.isprintable(), make


def test_a_long_name_is_bounded_in_every_other_method(service: LocalService, long_name: str) -> None:
    stub = service.stub
    check = health_pb2_grpc.HealthStub(service.channel).Check
    classify = classifier_pb2_grpc.ImageClassifierStub(service.channel).Classify
    classify_request = classifier_pb2.ClassifyRequest(model_name=long_name, images=[classifier_pb2.Image(encoded=b"x")])
    assert refusal(stub.ModelMetadata, pb.ModelMetadataRequest(name=long_name)).code is grpc.StatusCode.NOT_FOUND
    assert refusal(check, health_pb2.HealthCheckRequest(service=long_name)).code is grpc.StatusCode.NOT_FOUND
    assert refusal(classify, classify_request).code is grpc.StatusCode.NOT_FOUND
    settings = pb.LogSettingsRequest()
    settings.settings[long_name].bool_param = True
    assert refusal(stub.LogSettings, settings).code is grpc.StatusCode.UNIMPLEMENTED


def test_a_long_name_is_bounded_in_a_message_of_a_stream(service: LocalService, long_name: str) -> None:
    (answer,) = service.stub.ModelStreamInfer(iter([unknown_input(long_name)]), timeout=20)
    assert "has no input" in answer.error_message
    assert len(answer.error_message.encode()) <= MAX_METADATA_BYTES and answer.error_message.isprintable()


def test_a_reason_in_the_repository_index_is_bounded(toys: Path, grpc_server: str) -> None:
    config = f'max_batch_size: 8 input {{ name: "{"long-" * 1_000}" data_type: TYPE_FP32 dims: [4] }}'
    add_version(toys, "refused", doubling_model(), config=config)
    with local_service(toys, grpc_server) as service:
        models = service.stub.RepositoryIndex(pb.RepositoryIndexRequest()).models
        (reason,) = [model.reason for model in models if model.name == "refused"]
        assert "long-" in reason and len(reason.encode()) <= MAX_METADATA_BYTES
