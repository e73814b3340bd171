"""JSON through the edge: calls, and errors that say what to do."""

import base64
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.behind_edge import BehindEdge, behind_edge
from tests.support.edge import edge_process
from tests.support.http import Answer, ask
from tests.support.pictures import png
from tests.support.processes import free_port
from tests.support.tokens import CALLER
from tests.support.waiting import wait_until

JSON_LIMIT = 8 * 2**20
INFER = "inference.GRPCInferenceService/ModelInfer"
STREAM = "inference.GRPCInferenceService/ModelStreamInfer"
METADATA = "inference.GRPCInferenceService/ModelMetadata"
REQUEST = {
    "model_name": "double",
    "inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "contents": {"fp32_contents": [1, 2, 3, 4]}}],
}


@pytest.fixture(scope="module")
def behind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BehindEdge]:
    with behind_edge(tmp_path_factory.mktemp("edge")) as both:
        yield both


def post(behind: BehindEdge, method: str, request: object, **headers: str) -> Answer:
    """POST as curl does, which says that the JSON is a form."""
    body = request if isinstance(request, bytes) else json.dumps(request).encode()
    usual = {"content-type": "application/x-www-form-urlencoded"} if body else {}
    return ask(behind.address, "POST", f"/{method}", body, usual | headers)


def answered(answer: Answer, status: int = 200) -> Any:
    """The JSON of an answer with this status."""
    assert answer.status == status, answer
    assert answer.headers["content-type"] == "application/json"
    return json.loads(answer.body)


@pytest.mark.parametrize("request_", [{}, b""], ids=["empty message", "no body"])
def test_health_and_metadata(behind: BehindEdge, request_: object) -> None:
    assert answered(post(behind, "grpc.health.v1.Health/Check", request_)) == {"status": "SERVING"}
    assert answered(post(behind, "inference.GRPCInferenceService/ServerMetadata", request_))["name"] == "simplecnn"


def test_names_are_the_protocols_and_64_bit_numbers_are_strings(behind: BehindEdge) -> None:
    tensor = {"name": "x", "datatype": "FP32", "shape": ["-1", "4"]}
    assert answered(post(behind, METADATA, {"name": "double"})) == {
        "name": "double",
        "versions": ["1"],
        "platform": "onnxruntime_onnx",
        "inputs": [tensor],
        "outputs": [tensor | {"name": "y"}],
    }


def test_a_picture_in_base64_is_classified(behind: BehindEdge) -> None:
    picture = base64.b64encode(png(4, 4, rows=b"\0\xff\xff\xff\xff" * 4)).decode()
    for request in (
        {"model_name": "brightness", "images": [{"encoded": picture}], "fit": "FIT_NONE"},
        {"modelName": "brightness", "images": [{"encoded": picture.replace("+", "-").replace("/", "_")}], "fit": 2},
    ):
        (result,) = answered(post(behind, "simplecnn.v1.ImageClassifier/Classify", request))["results"]
        assert result["classes"] == [{"class_id": 1, "label": "light", "probability": 1}]
        assert "error" not in result


def test_numbers_go_in_and_base64_of_their_bytes_comes_out(behind: BehindEdge) -> None:
    answer = answered(post(behind, INFER, REQUEST))
    assert answer["outputs"] == [{"name": "y", "datatype": "FP32", "shape": ["1", "4"], "parameters": {}}]
    (raw,) = answer["raw_output_contents"]
    assert struct.unpack("<4f", base64.b64decode(raw)) == (2, 4, 6, 8)


def test_a_stream_is_an_array_in_both_directions(behind: BehindEdge) -> None:
    answers = answered(post(behind, STREAM, [REQUEST, REQUEST]))
    assert [answer["infer_response"]["model_name"] for answer in answers] == ["double", "double"]


def test_an_error_is_json_with_its_code_message_and_details(behind: BehindEdge) -> None:
    wrong = json.loads(json.dumps(REQUEST).replace("[1, 4]", "[1, 5]"))
    error = answered(post(behind, INFER, wrong), 400)
    assert error["code"] == 3 and "got [1, 5]" in error["message"]
    (detail,) = error["details"]
    assert detail["@type"] == "type.googleapis.com/google.rpc.BadRequest"
    assert detail["field_violations"][0]["field"] == "x.shape"
    assert answered(post(behind, METADATA, {"name": "nobody"}), 404)["code"] == 5
    assert answered(post(behind, "inference.GRPCInferenceService/SystemSharedMemoryStatus", {}), 501)["code"] == 12


WRONG_PATHS = [
    ("GET", "/"),
    ("GET", "/favicon.ico"),
    ("GET", "/v2/health/ready"),
    ("POST", "/v2/models/double/infer"),
    ("GET", f"/{METADATA}"),
    ("POST", "/inference.GRPCInferenceService/Nothing"),
    ("POST", "/nothing.v1.Nothing/Nothing"),
    ("OPTIONS", f"/{METADATA}"),
]


@pytest.mark.parametrize(("method", "path"), WRONG_PATHS)
def test_a_wrong_path_or_verb_is_404_and_says_what_to_send(behind: BehindEdge, method: str, path: str) -> None:
    error = answered(ask(behind.address, method, path, b"{}" if method == "POST" else b""), 404)
    assert error["code"] == 12 and "POST JSON to /PACKAGE.SERVICE/METHOD" in error["message"]


@pytest.mark.parametrize(
    ("body", "part"),
    [
        (b'{"name":', "Unexpected end"),
        (b"hello", "Unexpected token"),
        (b"[]", "Root element must be a message"),
        (b'{"name": 3}', "name: invalid value 3"),
        (b"\x1f\x8b\x08\x00", "Encountered non UTF-8"),
        (b'{"name": ' * 1000, "too deep"),
    ],
)
def test_malformed_json_is_400_and_says_where(behind: BehindEdge, body: bytes, part: str) -> None:
    error = answered(post(behind, METADATA, body), 400)
    assert error["code"] == 3 and part in error["message"]


@pytest.mark.parametrize("kind", ["application/json", "", "application/grpcx", "application/grpc-webx", "text/plain"])
@pytest.mark.parametrize("method", [METADATA, STREAM, "nothing.v1.Nothing/Nothing"])
def test_json_has_a_bound_whatever_it_is_called(behind: BehindEdge, method: str, kind: str) -> None:
    def padded(size: int) -> bytes:
        start, end = (b"[{", b"}]") if method == STREAM else (b"{", b"}")
        return start + b" " * (size - len(start + end)) + end

    error = answered(post(behind, method, padded(JSON_LIMIT + 1), **{"content-type": kind}), 413)
    assert error["code"] == 8 and "8 MiB" in error["message"]
    assert post(behind, method, padded(JSON_LIMIT), **{"content-type": kind}).status in (200, 404)


def test_a_deadline_is_a_header(behind: BehindEdge) -> None:
    assert answered(post(behind, INFER, REQUEST, **{"grpc-timeout": "1u"}), 504)["code"] == 4


def test_a_call_without_its_token_is_401_and_with_it_answered(tmp_path: Path, tokens_file: Path) -> None:
    with behind_edge(tmp_path, tokens_file=tokens_file) as behind:
        error = answered(post(behind, METADATA, {"name": "double"}), 401)
        assert error["code"] == 16 and "token" in error["message"]
        token = {"authorization": f"Bearer {CALLER}"}
        assert answered(post(behind, METADATA, {"name": "double"}, **token))["name"] == "double"
        assert answered(post(behind, "grpc.health.v1.Health/Check", {})) == {"status": "SERVING"}


def test_without_a_replica_the_answer_is_503_in_json(tmp_path: Path) -> None:
    with edge_process(f"127.0.0.1:{free_port()}", tmp_path, ready=False) as edge:
        wait_until(lambda: edge.health() == "serving", "the edge serves")
        assert answered(ask(edge.address, "POST", f"/{METADATA}", b"{}"), 503)["code"] == 14
