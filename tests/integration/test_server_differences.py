"""Where the two gRPC servers differ: each row of the table in service/README.md."""

import zlib
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest

from service.pb import inference_pb2 as pb
from tests.support.http2 import MODEL_INFER, RawCall
from tests.support.local_service import LocalService, local_service
from tests.support.requests import infer_request, outputs_of

X = np.arange(4, dtype=np.float32).reshape(1, 4)
REQUEST = infer_request("double", x=X)
PAYLOAD = REQUEST.SerializeToString()
METADATA = "/inference.GRPCInferenceService/ModelMetadata"
OK, INTERNAL, UNIMPLEMENTED = grpc.StatusCode.OK, grpc.StatusCode.INTERNAL, grpc.StatusCode.UNIMPLEMENTED


@pytest.fixture
def service(toys: Path, grpc_server: str) -> Iterator[LocalService]:
    with local_service(toys, grpc_server) as service:
        yield service


def status(service: LocalService, encoding: str, message: bytes, path: str = MODEL_INFER) -> grpc.StatusCode:
    with RawCall(service.address, path, [("grpc-encoding", encoding)]) as call:
        return call.send(message, compressed=1).status()[0]


def test_a_client_may_compress_with_deflate_except_for_the_native_servers_own_method(
    service: LocalService, grpc_server: str
) -> None:
    """If this fails for `native`, pygrpc-native has learnt deflate: drop the row of the table."""
    expected = {"native": UNIMPLEMENTED, "aio": OK}[grpc_server]
    assert status(service, "deflate", zlib.compress(PAYLOAD)) is expected
    other = pb.ModelMetadataRequest(name="double").SerializeToString()
    assert status(service, "deflate", zlib.compress(other), path=METADATA) is OK
    streamed = next(service.stub.ModelStreamInfer(iter([REQUEST]), compression=grpc.Compression.Deflate, timeout=20))
    np.testing.assert_array_equal(outputs_of(streamed.infer_response)["y"], 2 * X)


def test_an_unknown_compression_is_refused_with_the_status_of_the_servers_library(
    service: LocalService, grpc_server: str
) -> None:
    expected = {"native": UNIMPLEMENTED, "aio": INTERNAL}[grpc_server]
    for encoding in ("br", "snappy", "GZIP"):
        assert status(service, encoding, PAYLOAD) is expected, encoding


def test_of_several_timeouts_the_native_server_takes_the_first_and_the_aio_server_the_last(
    service: LocalService, grpc_server: str
) -> None:
    twice = [("grpc-timeout", "0n"), ("grpc-timeout", "20S")]
    for headers, first_is_long in ((twice, False), (twice[::-1], True)):
        with RawCall(service.address, MODEL_INFER, headers) as call:
            served = call.send(PAYLOAD).status()[0] is OK
        assert served is (first_is_long if grpc_server == "native" else not first_is_long)
