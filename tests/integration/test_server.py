"""A running service as operators see it: health, metrics, statistics, the HTTP endpoints, and what a stop leaves."""

import shutil
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import grpc
import numpy as np
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from service.pb import health_pb2, health_pb2_grpc
from service.pb import inference_pb2 as pb
from service.transport.http.monitoring import MAX_CONNECTIONS
from tests.support.http import get
from tests.support.local_service import Gate, LocalService, local_service
from tests.support.requests import infer_request
from tests.support.waiting import WAIT, wait_until

X = np.ones((1, 4), np.float32)


def test_health_has_one_name_a_model_and_sends_changes_to_watches(toys: Path, grpc_server: str) -> None:
    with local_service(toys, grpc_server) as service:
        health = health_pb2_grpc.HealthStub(service.channel)
        serving = health_pb2.HealthCheckResponse.SERVING
        statuses = health.List(health_pb2.HealthListRequest()).statuses
        assert {name: status.status for name, status in statuses.items()} == {
            "": serving,
            "double": serving,
            "lookup": serving,
            "liveness": serving,
        }
        watches = [health.Watch(health_pb2.HealthCheckRequest(service="double")) for _ in range(3)]
        assert [next(watch).status for watch in watches] == [serving] * 3
        watches[0].cancel()  # a watch that ends must not end the others
        shutil.rmtree(toys / "double")
        service.server.reconciler.reconcile()
        for watch in watches[1:]:
            seen = [next(watch).status]
            if seen == [health_pb2.HealthCheckResponse.NOT_SERVING]:  # while the model is unloading
                seen.append(next(watch).status)
            assert seen[-1] == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
            watch.cancel()


def metrics(service: LocalService) -> dict[tuple[str, str], float]:
    """Every sample of /metrics, by name and labels."""
    status, text = get(service.server.metrics_url)
    assert status == 200
    return {
        (sample.name, "|".join(f"{key}={value}" for key, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_metrics_count_exactly_what_happened(toys: Path, grpc_server: str) -> None:
    with local_service(toys, grpc_server) as service:
        for rows in (1, 3, 8):
            service.stub.ModelInfer(infer_request("double", x=np.ones((rows, 4), np.float32)))
        for invalid in (infer_request("double", y=X), infer_request("absent", x=X)):
            with pytest.raises(grpc.RpcError):
                service.stub.ModelInfer(invalid)
        wait_until(lambda: service.server.registry.get("double").statistics.executions == 3, "all requests are counted")
        seen = metrics(service)
    double = "model=double|version=1"
    assert seen["inference_requests_total", f"code=OK|{double}"] == 3
    assert seen["inference_requests_total", f"code=INVALID_ARGUMENT|{double}"] == 1
    assert seen["inference_requests_total", "code=NOT_FOUND|model=|version="] == 1
    assert seen["inference_rows_total", double] == 12
    assert seen["inference_batches_total", f"closed_by=full|{double}"] == 1
    assert seen["inference_batches_total", f"closed_by=engine_free|{double}"] == 2
    assert seen["inference_batch_rows_count", double] == 3
    assert seen["inference_batch_rows_sum", double] == 12
    assert seen["inference_batch_rows_bucket", f"le=4|{double}"] == 2
    for name in ("request", "queue"):
        assert seen[f"inference_{name}_duration_seconds_count", double] == 3
        assert 0 < seen[f"inference_{name}_duration_seconds_sum", double] < 10
    assert seen["inference_compute_duration_seconds_count", double] == 3
    assert seen["inference_queue_rows", double] == 0
    assert seen["inference_padding_rows_total", double] == 0
    assert seen["inference_model_ready", double] == 1
    assert 0 < seen["inference_model_load_seconds", double] < 10
    info = next(labels for name, labels in seen if name == "inference_model_info" and "model=double" in labels)
    assert "device=cpu" in info and "provider=CPUExecutionProvider" in info and "verified=false" in info
    assert any(name == "inference_server_info" and f"grpc_server={grpc_server}" in labels for name, labels in seen)
    assert any(name == "process_resident_memory_bytes" for name, _ in seen)
    assert not any("absent" in labels for _, labels in seen), "a label came from a request"


def test_model_statistics_add_up(toys: Path, grpc_server: str) -> None:
    with local_service(toys, grpc_server) as service, ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: service.stub.ModelInfer(infer_request("double", x=X)), range(100)))
        wait_until(
            lambda: service.server.registry.get("double").statistics.codes["OK"] == 100, "all requests are counted"
        )
        (stats,) = service.stub.ModelStatistics(pb.ModelStatisticsRequest(name="double")).model_stats
        assert len(service.stub.ModelStatistics(pb.ModelStatisticsRequest()).model_stats) == 2
    parts = stats.inference_stats
    assert stats.inference_count == parts.success.count == parts.queue.count == parts.compute_infer.count == 100
    assert stats.execution_count == sum(size.compute_infer.count for size in stats.batch_stats)
    assert stats.inference_count == sum(size.batch_size * size.compute_infer.count for size in stats.batch_stats)
    spent = parts.queue.ns + parts.compute_input.ns + parts.compute_infer.ns + parts.compute_output.ns
    assert spent == pytest.approx(parts.success.ns, rel=0.01)
    assert stats.last_inference > 1.7e12


def test_an_unknown_path_is_404(toys: Path) -> None:
    with local_service(toys, "aio") as service:
        assert get(service.server.metrics_url.replace("metrics", "nothing"))[0] == 404


def answers(url: str) -> bool:
    try:
        return get(url, timeout=10)[0] == 200
    except OSError:
        return False


def test_connections_to_the_metrics_port_are_limited(toys: Path) -> None:
    with local_service(toys, "aio") as service:
        host, port = service.server.metrics_url.split("/")[2].split(":")
        with ExitStack() as stack:
            for _ in range(MAX_CONNECTIONS):
                stack.enter_context(socket.create_connection((host, int(port))))
            with socket.create_connection((host, int(port)), timeout=WAIT) as excess:
                assert excess.recv(1) == b"", "the connection was not closed"
        wait_until(lambda: answers(service.server.metrics_url), "the port answers again")


def test_a_stopped_service_leaves_no_threads_or_files(toys: Path, grpc_server: str) -> None:
    """Its threads end, and its sockets and files are closed."""
    process = psutil.Process()
    with local_service(toys, grpc_server) as service:  # first, so that what libraries keep open is counted
        service.stub.ModelInfer(infer_request("double", x=X))
    before = (threading.active_count(), process.num_fds())
    for _ in range(3):
        with local_service(toys, grpc_server) as service:
            service.stub.ModelInfer(infer_request("double", x=X))
    wait_until(lambda: threading.active_count() <= before[0], "the threads have ended")
    wait_until(lambda: process.num_fds() <= before[1] + 3, "the files are closed")


def test_requests_in_flight_are_those_in_the_queue_and_in_an_engine(toys: Path, grpc_server: str, gate: Gate) -> None:
    with local_service(toys, grpc_server) as service:

        def in_flight() -> float:
            status, text = get(service.server.metrics_url)
            assert status == 200
            return next(
                sample.value
                for family in text_string_to_metric_families(text)
                for sample in family.samples
                if sample.name == "inference_requests_in_flight" and sample.labels["model"] == "double"
            )

        assert in_flight() == 0
        gate.hold()
        calls = [service.stub.ModelInfer.future(infer_request("double", x=X)) for _ in range(5)]
        wait_until(lambda: in_flight() == 5, "five requests are in flight")
        gate.open()
        for call in calls:
            call.result(WAIT)
        wait_until(lambda: in_flight() == 0, "none is in flight")
