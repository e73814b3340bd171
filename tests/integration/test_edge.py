"""gRPC through the edge: clients, errors, deadlines, cancellation, streams; and what its operators see."""

import json
import re
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from numpy.typing import NDArray

from service.client import Client
from service.pb import health_pb2, health_pb2_grpc
from service.pb import inference_pb2 as pb
from service.pb.inference_pb2_grpc import GRPCInferenceServiceStub
from service.runtime.session import Engine
from tests.conftest import outside
from tests.support.behind_edge import BehindEdge, behind_edge
from tests.support.http import ask
from tests.support.http2 import RawCall
from tests.support.local_service import Gate
from tests.support.refusal import Refusal
from tests.support.requests import infer_request, outputs_of
from tests.support.waiting import wait_until

X = np.arange(4, dtype=np.float32).reshape(1, 4)
REQUEST = infer_request("double", x=X)
METADATA = "/inference.GRPCInferenceService/ModelMetadata"


@pytest.fixture(scope="module")
def engines() -> Iterator[Gate]:
    """A gate before the service's engines."""
    with pytest.MonkeyPatch.context() as patch:
        gate = Gate(Engine.run)
        patch.setattr(Engine, "run", lambda engine, inputs: gate.run(engine, inputs))
        yield gate
        gate.open()


@pytest.fixture(scope="module")
def behind(tmp_path_factory: pytest.TempPathFactory, published: Path, engines: Gate) -> Iterator[BehindEdge]:
    """A service with model control and the published model, behind an edge that logs failed and slow calls alone."""
    folder = tmp_path_factory.mktemp("edge")
    shutil.copytree(published / "mnist-simplecnn", folder / "models" / "mnist-simplecnn")
    with behind_edge(folder, edge={"access_log_percent": "0"}, enable_model_control=True) as both:
        yield both


@pytest.fixture
def channel(behind: BehindEdge) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(behind.address) as channel:
        yield channel


@pytest.fixture
def stub(channel: grpc.Channel) -> GRPCInferenceServiceStub:
    return GRPCInferenceServiceStub(channel)


def logged(behind: BehindEdge, **fields: object) -> dict[str, Any]:
    """The access log's line with these fields, once it is there."""
    found: list[dict[str, Any]] = []

    def look() -> bool:
        found[:] = [line for line in lines(behind) if fields.items() <= line.items()]
        return bool(found)

    wait_until(look, f"a line with {fields} is logged")
    return found[-1]


def lines(behind: BehindEdge) -> list[dict[str, Any]]:
    """The edge's log, of which each line is JSON."""
    return [json.loads(line) for line in behind.edge.log.read_text().rpartition("\n")[0].splitlines()]


def test_our_client_gets_the_answers_of_the_service(
    behind: BehindEdge, test_images: tuple[NDArray[np.uint8], NDArray[np.uint8]]
) -> None:
    images = test_images[0][:4]
    with Client(behind.address) as through, Client(behind.service.address) as direct:
        expected = direct.predict("mnist-simplecnn", images)
        np.testing.assert_allclose(through.predict("mnist-simplecnn", images), expected, atol=1e-5)
        assert through.models() == direct.models()


def test_an_unmodified_tritonclient_gets_all_that_it_asks_for(
    behind: BehindEdge, test_images: tuple[NDArray[np.uint8], NDArray[np.uint8]], tmp_path: Path
) -> None:
    images, labels = (array[:100] for array in test_images)
    np.savez(tmp_path / "images.npz", images=images)
    seen: dict[str, Any] = outside("triton_sync.py", behind.address, str(tmp_path / "images.npz"))
    assert seen["live"] and seen["ready"] and seen["model_ready"] and seen["counted"]
    assert seen["id"] == "r-7" and seen["unknown"] == "StatusCode.NOT_FOUND"
    assert (np.argmax(seen["probabilities"], axis=1) == labels).mean() > 0.9


def test_reflection_lists_and_describes_the_methods(channel: grpc.Channel) -> None:
    database = ProtoReflectionDescriptorDatabase(channel)
    assert "inference.GRPCInferenceService" in database.get_services()
    described = database.FindFileContainingSymbol("simplecnn.v1.ImageClassifier")
    assert [method.name for method in described.service[0].method] == ["Classify"]


def test_an_error_keeps_its_status_text_and_details(stub: GRPCInferenceServiceStub) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        stub.ModelInfer(infer_request("double", x=X[0]))
    error = Refusal(caught.value)
    assert error.code is grpc.StatusCode.INVALID_ARGUMENT and "got [4]" in error.text
    assert error.fields() == ["x.shape"], "the trailing metadata did not arrive"


def test_an_unknown_method_is_unimplemented(channel: grpc.Channel) -> None:
    for path in ("/inference.GRPCInferenceService/Nothing", "/nothing.v1.Nothing/Nothing", "/v2/health/live"):
        call: Any = channel.unary_unary(path)
        with pytest.raises(grpc.RpcError) as caught:
            call(b"", timeout=10)
        assert Refusal(caught.value).code is grpc.StatusCode.UNIMPLEMENTED, path


def test_the_service_knows_the_callers_deadline(
    behind: BehindEdge, stub: GRPCInferenceServiceStub, engines: Gate
) -> None:
    engine = behind.service.server.registry.get("double").batcher._scheduler._engines[0]
    usual, engine.seconds_per_row = engine.seconds_per_row, 10.0
    with ThreadPoolExecutor(1) as pool:
        engines.hold()
        running = pool.submit(stub.ModelInfer, REQUEST)
        engines.wait_for(1)
        with pytest.raises(grpc.RpcError) as caught:
            stub.ModelInfer(REQUEST, timeout=15)
        engines.open()
        running.result()
    engine.seconds_per_row = usual
    error = Refusal(caught.value)
    assert error.code is grpc.StatusCode.DEADLINE_EXCEEDED and "cannot be met" in error.text


def test_a_cancelled_call_is_cancelled_in_the_service(
    behind: BehindEdge, stub: GRPCInferenceServiceStub, engines: Gate
) -> None:
    model = behind.service.server.registry.get("double")
    with ThreadPoolExecutor(1) as pool:
        engines.hold()
        running = pool.submit(stub.ModelInfer, REQUEST)
        engines.wait_for(1)
        before = model.statistics.codes["CANCELLED"]
        waiting = stub.ModelInfer.future(REQUEST)
        wait_until(lambda: model.batcher.queued_rows == 1, "the call is queued")
        waiting.cancel()
        wait_until(lambda: model.statistics.codes["CANCELLED"] == before + 1, "the service saw the cancellation")
        engines.open()
        running.result()
    assert engines.sizes == [1], "the cancelled call was computed"


def test_watch_reports_changes_as_they_come(channel: grpc.Channel, stub: GRPCInferenceServiceStub) -> None:
    states = health_pb2.HealthCheckResponse
    watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service="double"), timeout=30)
    assert next(watch).status == states.SERVING
    stub.RepositoryModelUnload(pb.RepositoryModelUnloadRequest(model_name="double"))
    assert next(watch).status in (states.NOT_SERVING, states.SERVICE_UNKNOWN)
    stub.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name="double"))
    assert next(watch).status == states.SERVING
    watch.cancel()


def test_a_stream_answers_while_it_is_open(stub: GRPCInferenceServiceStub) -> None:
    answers: list[NDArray[Any]] = []

    def arrived(count: int) -> bool:
        return len(answers) == count

    def requests() -> Iterator[pb.ModelInferRequest]:
        for index in range(3):
            yield infer_request("double", x=X + index)
            wait_until(partial(arrived, index + 1), "the answer came before the next request")

    for answer in stub.ModelStreamInfer(requests(), timeout=20):
        answers.append(outputs_of(answer.infer_response)["y"])  # noqa: PERF401 # requests() waits for each
    np.testing.assert_array_equal(np.concatenate(answers), np.concatenate([2 * (X + index) for index in range(3)]))


def test_probes_and_metrics_are_on_the_port_for_operators(behind: BehindEdge, stub: GRPCInferenceServiceStub) -> None:
    stub.ModelInfer(REQUEST)
    assert [ask(behind.operators, "GET", path).status for path in ("/livez", "/readyz")] == [200, 200]
    assert ask(behind.address, "GET", "/livez").status == 200, "load balancers before the edge ask the public port"
    metrics = ask(behind.operators, "GET", "/metrics").body.decode()
    calls = re.findall(r'^envoy_cluster_grpc\{.*grpc_status="0".*\} (\d+)$', metrics, re.MULTILINE)
    assert len(calls) == 1 and int(calls[0]) >= 1, "calls by gRPC status"


TRICKS = [
    "/stats",
    "/config_dump",
    "/quitquitquit",
    "//quitquitquit",
    "/metrics/../quitquitquit",
    "/metrics/quitquitquit",
    "/metrics%2f..%2fquitquitquit",
    "/%2e%2e/quitquitquit",
    "/livez/../config_dump",
    "/livez;/config_dump",
    "/metrics\\..\\config_dump",
    "http://127.0.0.1:{admin}/config_dump",
]


@pytest.mark.parametrize("path", TRICKS)
def test_envoys_own_interface_cannot_be_reached_from_outside(behind: BehindEdge, path: str) -> None:
    admin = behind.edge.environment["EDGE_ADMIN_PORT"]
    for address in (behind.address, behind.operators):
        for method in ("GET", "POST"):
            for headers in ({}, {"host": f"127.0.0.1:{admin}"}, {"x-original-url": "/config_dump"}):
                answer = ask(address, method, path.format(admin=admin), headers=headers)
                assert answer.status in (400, 404), (address, method, headers, answer.body[:100])
    assert behind.edge.process.poll() is None and behind.edge.ready()


def test_a_failed_call_is_logged_and_a_good_one_is_not(behind: BehindEdge, stub: GRPCInferenceServiceStub) -> None:
    stub.ModelInfer(REQUEST)
    with pytest.raises(grpc.RpcError):
        stub.ModelMetadata(pb.ModelMetadataRequest(name="nobody"))
    line = logged(behind, method=METADATA, grpc_status="NOT_FOUND")
    assert line["event"] == "call" and line["client"] == "127.0.0.1" and line["replica"] == behind.service.address
    assert line["http_status"] == 200 and line["attempts"] == 1 and line["request_id"]
    assert line["milliseconds"] >= line["upstream_milliseconds"] >= 0
    assert line["bytes_received"] == 5 + len(pb.ModelMetadataRequest(name="nobody").SerializeToString())
    good = [line for line in lines(behind) if line.get("grpc_status") == "OK" and line["milliseconds"] < 1000]
    assert not good


def test_what_a_stranger_says_of_himself_is_not_believed(behind: BehindEdge) -> None:
    claims = [("x-forwarded-for", "6.6.6.6"), ("x-request-id", "mine"), ("x-envoy-max-retries", "9")]
    with RawCall(behind.address, "/stranger/Call", claims) as call:
        assert call.send(b"").status()[0] is grpc.StatusCode.UNIMPLEMENTED
    line = logged(behind, method="/stranger/Call")
    assert line["client"] == "127.0.0.1" and line["request_id"] != "mine"
