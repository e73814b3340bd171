"""What the edge refuses before the service sees it: large messages and headers, compressed messages."""

import gzip
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import numpy as np
import pytest

from service.pb import inference_pb2 as pb
from tests.support.behind_edge import BehindEdge, behind_edge
from tests.support.grpc_web import web_call
from tests.support.http import ask
from tests.support.http2 import MODEL_INFER, RawCall
from tests.support.refusal import Refusal
from tests.support.requests import infer_request, outputs_of

MIB = 2**20
LIMIT = MIB  # of the edge of these tests
SERVICE_LIMIT = 64 * MIB
X = np.arange(4, dtype=np.float32).reshape(1, 4)
REQUEST = infer_request("double", x=X)
STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"
OK, UNIMPLEMENTED = grpc.StatusCode.OK, grpc.StatusCode.UNIMPLEMENTED
RESOURCE_EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.fixture(scope="module")
def behind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BehindEdge]:
    with behind_edge(tmp_path_factory.mktemp("edge"), edge={"max_message_bytes": str(LIMIT)}) as both:
        yield both


@pytest.fixture
def channel(behind: BehindEdge) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(behind.address, [("grpc.max_send_message_length", -1)]) as channel:
        yield channel


def padded(size: int) -> bytes:
    """A valid request of exactly that size."""
    request = infer_request("double", x=X)
    request.parameters["padding"].string_param = "p" * (size - 100)
    request.id = "i" * (size - request.ByteSize() - 2)
    assert request.ByteSize() == size
    return request.SerializeToString()


def refusal(call: Callable[[], Any]) -> Refusal:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return Refusal(caught.value)


def test_a_message_of_the_limit_passes_and_one_byte_more_is_refused_with_the_limit(
    behind: BehindEdge, channel: grpc.Channel
) -> None:
    call: Any = channel.unary_unary(MODEL_INFER)
    assert pb.ModelInferResponse.FromString(call(padded(LIMIT), timeout=20)).model_name == "double"
    error = refusal(lambda: call(padded(LIMIT + 1), timeout=20))
    assert error.code is RESOURCE_EXHAUSTED
    assert error.text == f"the message is larger than {LIMIT} bytes, the limit of the edge"


@pytest.mark.parametrize("text", [False, True])
def test_the_same_holds_for_grpc_web(behind: BehindEdge, text: bool) -> None:
    assert web_call(behind.address, MODEL_INFER, padded(LIMIT), text=text).code is OK
    answer = web_call(behind.address, MODEL_INFER, padded(LIMIT + 1), text=text)
    assert (answer.http.status, answer.code) == (200, RESOURCE_EXHAUSTED)
    assert str(LIMIT) in answer.text


def test_a_stream_may_send_more_than_the_limit_but_no_message_over_the_services(channel: grpc.Channel) -> None:
    call: Any = channel.stream_stream(STREAM)
    message = padded(3 * MIB)
    answers = [pb.ModelStreamInferResponse.FromString(answer) for answer in call(iter([message] * 23), timeout=60)]
    assert 23 * len(message) > SERVICE_LIMIT
    for answer in answers:
        np.testing.assert_array_equal(outputs_of(answer.infer_response)["y"], 2 * X)
    assert len(answers) == 23
    error = refusal(lambda: list(call(iter([bytes(70_000_000)]), timeout=60)))
    assert error.code is RESOURCE_EXHAUSTED and str(SERVICE_LIMIT) in error.text


@pytest.mark.parametrize("path", [MODEL_INFER, STREAM, "/grpc.health.v1.Health/Check"])
@pytest.mark.parametrize("encoding", ["gzip", "deflate", "GZIP", "snappy", "identity,gzip", ""])
def test_a_call_that_announces_compression_is_refused_without_its_message(
    behind: BehindEdge, path: str, encoding: str
) -> None:
    with RawCall(behind.address, path, [("grpc-encoding", encoding)]) as call:
        assert call.status() == (UNIMPLEMENTED, "compressed requests are not accepted; send them uncompressed")
        assert call.fields[b"grpc-accept-encoding"] == b"identity"


@pytest.mark.parametrize("encodings", [("gzip", "identity"), ("identity", "gzip")])
def test_a_message_is_not_decompressed_where_two_encodings_are_announced(
    behind: BehindEdge, encodings: tuple[str, str]
) -> None:
    message = gzip.compress(REQUEST.SerializeToString())
    with RawCall(behind.address, MODEL_INFER, [("grpc-encoding", encoding) for encoding in encodings]) as call:
        assert call.send(message, compressed=1).status()[0] in (UNIMPLEMENTED, grpc.StatusCode.INTERNAL)


@pytest.mark.parametrize("headers", [[], [("grpc-encoding", "identity")]])
def test_a_call_that_announces_none_passes_and_its_message_is_never_decompressed(
    behind: BehindEdge, headers: list[tuple[str, str]]
) -> None:
    with RawCall(behind.address, MODEL_INFER, headers) as call:
        assert call.send(REQUEST.SerializeToString()).status()[0] is OK
    for bomb in (gzip.compress(bytes(10 * MIB)), zlib.compress(bytes(10 * MIB))):
        with RawCall(behind.address, MODEL_INFER, headers) as call:
            assert call.send(bomb, compressed=1).status()[0] is grpc.StatusCode.INTERNAL


@pytest.mark.parametrize("algorithm", [grpc.Compression.Gzip, grpc.Compression.Deflate])
def test_a_client_that_compresses_learns_what_to_do(channel: grpc.Channel, algorithm: grpc.Compression) -> None:
    call: Any = channel.unary_unary(MODEL_INFER)
    error = refusal(lambda: call(REQUEST.SerializeToString(), compression=algorithm, timeout=20))
    assert error.code is UNIMPLEMENTED and "uncompressed" in error.text


def test_headers_of_a_megabyte_are_refused_and_the_edge_serves_on(behind: BehindEdge, channel: grpc.Channel) -> None:
    call: Any = channel.unary_unary(MODEL_INFER)
    for headers in ({"x": "y" * MIB}, {f"x{index}": "y" for index in range(200)}):
        error = refusal(lambda: call(b"", timeout=20, metadata=tuple(headers.items())))  # noqa: B023 # called at once
        assert error.code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL, RESOURCE_EXHAUSTED)
        assert ask(behind.address, "GET", "/livez", headers=headers).status == 431
    assert pb.ModelInferResponse.FromString(call(padded(1000), timeout=20, wait_for_ready=True)).model_name == "double"
