"""Compressed requests, alike on both gRPC servers. Where they differ: test_server_differences.py."""

import gzip
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest

from tests.support.http2 import MODEL_INFER, RawCall
from tests.support.local_service import LocalService, local_service
from tests.support.requests import infer_request, outputs_of

X = np.arange(4, dtype=np.float32).reshape(1, 4)
REQUEST = infer_request("double", x=X)
PAYLOAD = REQUEST.SerializeToString()
OK, INTERNAL = grpc.StatusCode.OK, grpc.StatusCode.INTERNAL


@pytest.fixture
def service(toys: Path, grpc_server: str) -> Iterator[LocalService]:
    with local_service(toys, grpc_server) as service:
        yield service


def status(service: LocalService, encoding: str, message: bytes, *, compressed: int) -> grpc.StatusCode:
    headers = [("grpc-encoding", encoding)] if encoding else []
    with RawCall(service.address, MODEL_INFER, headers) as call:
        return call.send(message, compressed=compressed).status()[0]


@pytest.mark.parametrize("compression", [grpc.Compression.NoCompression, grpc.Compression.Gzip])
def test_a_client_may_compress_with_gzip(service: LocalService, compression: grpc.Compression) -> None:
    answer = service.stub.ModelInfer(REQUEST, compression=compression, timeout=20)
    np.testing.assert_array_equal(outputs_of(answer)["y"], 2 * X)


def test_a_message_may_stay_uncompressed_whatever_the_call_announces(service: LocalService) -> None:
    for encoding in ("", "identity", "gzip"):
        assert status(service, encoding, PAYLOAD, compressed=0) is OK, encoding


def test_a_message_that_cannot_be_decompressed_is_an_internal_error(service: LocalService) -> None:
    cut = gzip.compress(PAYLOAD)[:-9]
    for encoding, message in (("", PAYLOAD), ("identity", PAYLOAD), ("gzip", b"not gzip"), ("gzip", cut)):
        assert status(service, encoding, message, compressed=1) is INTERNAL, encoding


def test_a_response_is_not_compressed_whatever_the_client_accepts(service: LocalService) -> None:
    for accepted in ("gzip", "identity,deflate,gzip", "none of them"):
        with RawCall(service.address, MODEL_INFER, [("grpc-accept-encoding", accepted)]) as call:
            assert call.send(PAYLOAD).status() == (OK, ""), accepted
            assert b"grpc-encoding" not in call.fields
