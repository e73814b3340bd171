"""grpc-timeout, as it stands in the header, has one outcome on both gRPC servers and in every unary method."""

from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest

from service.pb import inference_pb2 as pb
from tests.support.http2 import MODEL_INFER, RawCall
from tests.support.local_service import LocalService, local_service
from tests.support.requests import infer_request

CALLS = {
    MODEL_INFER: infer_request("double", x=np.zeros((1, 4), np.float32)),
    "/inference.GRPCInferenceService/ModelMetadata": pb.ModelMetadataRequest(name="double"),
}


@pytest.fixture(params=CALLS)
def path(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def service(toys: Path, grpc_server: str) -> Iterator[LocalService]:
    with local_service(toys, grpc_server) as service:
        yield service


def status(service: LocalService, path: str, timeout: str) -> tuple[grpc.StatusCode, str]:
    with RawCall(service.address, path, [("grpc-timeout", timeout)]) as call:
        return call.send(CALLS[path].SerializeToString()).status()


def test_a_timeout_of_a_millisecond_or_less_has_passed_on_arrival(service: LocalService, path: str) -> None:
    for timeout in ("0n", "0S", "1n", "1u", "999u", "1000000n", "1m"):
        assert status(service, path, timeout)[0] is grpc.StatusCode.DEADLINE_EXCEEDED, timeout


def test_a_timeout_that_is_long_enough_is_served(service: LocalService, path: str) -> None:
    for timeout in ("20S", "1H", "99999999H", "100000000S", "000000020S", " 20 S ", "9999999999", "9" * 5_000):
        assert status(service, path, timeout) == (grpc.StatusCode.OK, ""), timeout


def test_an_invalid_timeout_gets_the_status_of_grpcs_core(service: LocalService, path: str) -> None:
    for timeout in ("", "abc", "20", "S", "20s", "-20S", "+20S", "2.5S", "0x2S", "20S2", "٢S"):
        expected = (grpc.StatusCode.INTERNAL, "Error parsing 'grpc-timeout' metadata")
        assert status(service, path, timeout) == expected, timeout
