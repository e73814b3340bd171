"""Clients that hang up, at any moment and in any method: no error in the log. Real errors keep their tracebacks."""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
import structlog

from service.pb import classifier_pb2, health_pb2, health_pb2_grpc
from service.pb import inference_pb2 as pb
from service.transport.grpc.hang_ups import GRPC_LOGGER, HANG_UPS
from service.transport.grpc.health_servicer import HealthServicer
from tests.support.http2 import MODEL_INFER, RawCall
from tests.support.local_service import LocalService, local_service
from tests.support.models import add_version, widening_model
from tests.support.refusal import Refusal
from tests.support.requests import infer_request, outputs_of
from tests.support.waiting import wait_until

STREAM_INFER = "/inference.GRPCInferenceService/ModelStreamInfer"
WIDTH = 500_000  # an answer of 2 MB, far more than the 64 KiB that HTTP/2 sends before the client takes them
X = np.ones((1, 1), np.float32)
REQUEST = infer_request("widen", x=X).SerializeToString()
CALLS = {
    MODEL_INFER: REQUEST,
    STREAM_INFER: REQUEST,
    "/inference.GRPCInferenceService/ModelMetadata": pb.ModelMetadataRequest(name="absent").SerializeToString(),
    "/simplecnn.v1.ImageClassifier/Classify": classifier_pb2.ClassifyRequest(
        model_name="absent", images=[classifier_pb2.Image(encoded=b"")]
    ).SerializeToString(),
    "/grpc.health.v1.Health/Watch": health_pb2.HealthCheckRequest().SerializeToString(),
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": b"\x3a\x00",  # list_services: ""
}
LEAVE = [RawCall.reset, RawCall.hang_up]


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    add_version(tmp_path, "widen", widening_model(WIDTH), config="max_batch_size: 8 dynamic_batching { }")
    return tmp_path


@pytest.fixture
def service(repository: Path, grpc_server: str, caplog: pytest.LogCaptureFixture) -> Iterator[LocalService]:
    """A service whose log must be empty once it has stopped, and with it every call that a client left."""
    with local_service(repository, grpc_server) as service:
        yield service
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []


@pytest.mark.parametrize("leave", LEAVE)
def test_a_client_that_leaves_as_its_answer_comes_is_no_error(
    service: LocalService, grpc_server: str, leave: Callable[[RawCall], None]
) -> None:
    before = HANG_UPS.count
    for path in (MODEL_INFER, STREAM_INFER):
        for _ in range(5):
            with RawCall(service.address, path) as call:
                call.send(REQUEST).await_headers()
                leave(call)
    if grpc_server == "aio":
        wait_until(lambda: HANG_UPS.count > before, "the server notices that it cannot send")
    answer = service.stub.ModelInfer(infer_request("widen", x=X), timeout=20)
    assert (outputs_of(answer)["y"] == 1).all()


@pytest.mark.parametrize("leave", LEAVE)
@pytest.mark.parametrize("path", CALLS)
def test_a_client_that_leaves_before_its_answer_is_no_error(
    service: LocalService, path: str, leave: Callable[[RawCall], None]
) -> None:
    for _ in range(5):
        with RawCall(service.address, path) as call:
            leave(call)
        with RawCall(service.address, path) as call:
            leave(call.send(CALLS[path], last=False))
        with RawCall(service.address, path) as call:
            leave(call.send(CALLS[path]))


def test_a_method_that_fails_is_logged_with_its_traceback_and_does_not_leak(
    repository: Path, grpc_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("a secret")

    monkeypatch.setattr(HealthServicer, "_status", fail)
    with local_service(repository, grpc_server) as service, structlog.testing.capture_logs() as log:
        watch = health_pb2_grpc.HealthStub(service.channel).Watch
        with pytest.raises(grpc.RpcError) as caught:
            next(watch(health_pb2.HealthCheckRequest(), timeout=20))
        error = Refusal(caught.value)
    assert error.code is grpc.StatusCode.INTERNAL and "secret" not in error.text
    (record,) = [record for record in log if record["event"] == "call failed"]
    assert record["exc_info"] and record["method"] == "Watch" and record["error_id"] in error.text


class ExecuteBatchError(Exception):
    """Has the name of gRPC's."""


@pytest.mark.parametrize(
    "error",
    [RuntimeError('Failed "execute_batch"'), ExecuteBatchError("Failed grpc_call_start_batch: 8, invalid metadata")],
)
def test_any_other_error_of_grpc_is_logged(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger(GRPC_LOGGER)
    logger.addFilter(HANG_UPS)
    before = HANG_UPS.count
    logger.error("Unexpected error", exc_info=error)
    assert len(caplog.records) == 1 and HANG_UPS.count == before
