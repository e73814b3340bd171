"""The service as a process: signals, exit status, settings, readiness, reload and log."""

import json
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest

from service.pb import health_pb2, health_pb2_grpc
from service.pb import inference_pb2 as pb
from service.pb.inference_pb2_grpc import GRPCInferenceServiceStub
from tests.support.http import get
from tests.support.models import add_version, doubling_model, endless_model
from tests.support.processes import run_command, service_process
from tests.support.requests import infer_request, outputs_of
from tests.support.waiting import wait_until

X = np.ones((1, 4), np.float32)
OPEN = "127.000.000.001"  # 127.0.0.1 to the system; to the service a name that it does not know, so an open address


@pytest.fixture
def port_in_use() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_sigterm_answers_every_accepted_call_and_exits_with_0(toys: Path, grpc_server: str) -> None:
    with service_process(toys, "--grpc-server", grpc_server) as service:
        stop = threading.Event()
        answered: list[float] = []
        refused: list[str] = []
        lost: list[str] = []

        def call() -> None:
            with grpc.insecure_channel(service.address) as channel:
                stub = GRPCInferenceServiceStub(channel)
                while not stop.is_set():
                    try:
                        answered.append(
                            outputs_of(stub.ModelInfer(infer_request("double", x=X), timeout=20))["y"][0, 0]
                        )
                    except grpc.RpcError as error:
                        # The server refused the call, or the connection: the client may safely retry elsewhere.
                        text = f"{error.code().name}: {error.details()}"
                        may_retry = text.startswith("UNAVAILABLE") and ("draining" in text or "refused" in text)
                        (refused if may_retry else lost).append(text)
                        return

        threads = [threading.Thread(target=call) for _ in range(16)]
        for thread in threads:
            thread.start()
        wait_until(lambda: len(answered) > 200, "calls are answered")
        status = service.stop()
        stop.set()
        for thread in threads:
            thread.join()
    assert status == 0
    assert not lost
    assert set(answered) == {2.0}
    assert service.has("draining") and service.has("stopped")


def test_a_lame_duck_reports_not_serving_and_serves_on(toys: Path, grpc_server: str) -> None:
    with service_process(toys, "--grpc-server", grpc_server, "--lame-duck-seconds", "1.5") as service:
        with grpc.insecure_channel(service.address) as channel:
            stub, health = GRPCInferenceServiceStub(channel), health_pb2_grpc.HealthStub(channel)
            watch = health.Watch(health_pb2.HealthCheckRequest())
            assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
            service.process.send_signal(signal.SIGTERM)
            assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
            assert get(service.metrics.replace("metrics", "readyz")) == (503, "draining\n")
            assert get(service.metrics.replace("metrics", "livez"))[0] == 200
            assert not stub.ServerReady(pb.ServerReadyRequest()).ready
            np.testing.assert_array_equal(outputs_of(stub.ModelInfer(infer_request("double", x=X)))["y"], 2 * X)
            watch.cancel()
        assert service.wait() == 0


def test_a_second_signal_exits_at_once_and_leaves_no_file(
    toys: Path, grpc_server: str, own_temporary_folder: Path
) -> None:
    with service_process(toys, "--lame-duck-seconds", "600", "--grpc-server", grpc_server) as service:
        service.process.send_signal(signal.SIGTERM)
        wait_until(lambda: service.has("draining"), "the service drains")
        assert service.stop(signal.SIGTERM) == 128 + signal.SIGTERM
    assert not list(own_temporary_folder.glob("[!.]*"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_same_signal_to_the_process_and_to_its_group_is_one(toys: Path, number: signal.Signals) -> None:
    """As `timeout` sends it."""
    with service_process(toys) as service:
        service.process.send_signal(number)
        assert service.stop(number) == 0
        assert not service.has("second signal, exiting at once")


def test_a_stop_does_not_wait_for_a_load(toys: Path, own_temporary_folder: Path) -> None:
    """ONNX Runtime cannot be interrupted, so the process ends without the thread that loads."""
    (toys / "double" / "1" / "model.onnx").write_bytes(endless_model())
    for late in (False, True):
        flags = ["--shutdown-timeout-seconds", "600"]
        with service_process(toys, *flags, until="metrics listening") as service:
            if late:  # the first version serves, the second one loads
                wait_until(lambda: service.has("model ready"), "the other model is ready")
            assert service.stop() == 0
            assert service.events[-1]["event"] == "stopped"
        assert not list(own_temporary_folder.glob("[!.]*"))
        if not late:
            (toys / "double").rename(toys / "slow")  # is loaded after `lookup`


def test_ctrl_c_skips_the_lame_duck(toys: Path) -> None:
    with service_process(toys, "--lame-duck-seconds", "600") as service:
        assert service.stop(signal.SIGINT) == 0


@pytest.mark.parametrize("flag", ["--grpc-port", "--metrics-port"])
def test_a_port_in_use_is_one_line_and_status_2(toys: Path, grpc_server: str, flag: str, port_in_use: int) -> None:
    ports = {"--grpc-port": "0", "--metrics-port": "0"} | {flag: str(port_in_use)}
    flags = [part for pair in ports.items() for part in pair]
    result = run_command("service", "--model-repository", str(toys), "--grpc-server", grpc_server, *flags)
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"error: {flag} {port_in_use}:") and "Address already in use" in line


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model-repository", "/nowhere"], "--model-repository /nowhere: no such folder"),
        (["--grpc-port", "70000"], "--grpc-port"),
        (["--grpc-port", "9001", "--metrics-port", "9001"], "must differ"),
        (["--intra-op-threads", "0"], "--intra-op-threads"),
        (["--device", "tpu"], "--device"),
        (["--grpc-server", "http"], "--grpc-server"),
        (["--lame-duck-seconds", "nan"], "--lame-duck-seconds"),
        (["--max-message-bytes", "-1"], "--max-message-bytes"),
        (["--bogus"], "--bogus"),
        (["--tls-certificate", "tls.crt"], "--tls-certificate and --tls-key: give both or neither"),
    ],
)
def test_an_invalid_setting_is_refused_with_status_2(flags: list[str], message: str) -> None:
    result = run_command("service", *flags)
    assert result.returncode == 2
    assert message in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--host", OPEN], "--insecure to serve without TLS"),
        (["--host", OPEN, "--insecure", "--grpc-server", "native"], "before its token is checked"),
    ],
    ids=["open", "native"],
)
def test_what_strangers_must_not_reach_is_one_line_and_status_2(
    toys: Path, flags: list[str], message: str, workers: str
) -> None:
    result = run_command("service", "--model-repository", str(toys), "--workers", workers, *flags)
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: --") and message in line


@pytest.mark.parametrize("workers", ["1", "2"])
def test_on_an_open_address_auto_runs_the_aio_server_and_the_log_says_why_once(toys: Path, workers: str) -> None:
    with service_process(toys, "--host", OPEN, "--insecure", "--workers", workers, until="listening") as service:
        assert service.event("listening")["grpc_server"] == "aio"
        for event in ("aio server chosen", "open address without TLS", "open address without tokens"):
            assert service.count(event) == 1
        assert "put an edge before it" in service.event("aio server chosen")["advice"]


def test_without_models_the_service_is_live_and_gets_ready_with_the_first_valid_version(
    tmp_path: Path, grpc_server: str
) -> None:
    with service_process(
        tmp_path, "--grpc-server", grpc_server, "--repository-poll-seconds", "0.1", ready=False
    ) as service:
        assert "holds no models" in service.event("not ready")["reason"]
        assert get(service.metrics.replace("metrics", "livez")) == (200, "live\n")
        status, body = get(service.metrics.replace("metrics", "readyz"))
        assert status == 503 and "holds no models" in body
        with grpc.insecure_channel(service.address) as channel:
            stub = GRPCInferenceServiceStub(channel)
            assert stub.ServerLive(pb.ServerLiveRequest()).live
            assert not stub.ServerReady(pb.ServerReadyRequest()).ready
            add_version(tmp_path / ".staging", "double", b"not a graph")
            (tmp_path / ".staging" / "double").rename(tmp_path / "double")
            wait_until(lambda: service.has("model refused"), "the invalid version is refused")
            readyz = service.metrics.replace("metrics", "readyz")
            wait_until(lambda: "model.onnx cannot be opened" in get(readyz)[1], "the model was refused")
            add_version(tmp_path, "double", doubling_model(), version=2)
            wait_until(lambda: stub.ServerReady(pb.ServerReadyRequest()).ready, "the valid version is ready")
            np.testing.assert_array_equal(outputs_of(stub.ModelInfer(infer_request("double", x=X)))["y"], 2 * X)
        assert sum(line["event"] == "model refused" for line in service.events) == 1, (
            "the refusal is logged at every poll"
        )
        assert service.stop() == 0


def test_sighup_loads_new_versions_at_once(toys: Path) -> None:
    with service_process(toys) as service, grpc.insecure_channel(service.address) as channel:
        stub = GRPCInferenceServiceStub(channel)
        add_version(toys, "double", doubling_model(), version=2)
        service.process.send_signal(signal.SIGHUP)
        wait_until(
            lambda: stub.ModelInfer(infer_request("double", x=X)).model_version == "2", "the new version answers"
        )


def test_the_log_has_one_line_a_step_and_none_for_requests(toys: Path) -> None:
    with service_process(toys) as service:
        with grpc.insecure_channel(service.address) as channel:
            stub = GRPCInferenceServiceStub(channel)
            for _ in range(20):
                stub.ModelInfer(infer_request("double", x=X))
        service.stop()
    assert [line["event"] for line in service.events] == [
        "listening", "metrics listening", "model ready", "model ready", "ready", "draining", "stopped",
    ]  # fmt: skip
    assert all({"level", "timestamp"} <= line.keys() for line in service.events)


def test_the_log_is_text_on_request_and_json_without_a_terminal() -> None:
    def logged(form: str) -> str:
        code = (
            "import logging, structlog; from service.core import logs; "
            f"logs.configure({form!r}); structlog.get_logger().info('model ready', version=1); "
            "logging.getLogger('grpc').warning('from a library')"
        )
        return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stderr

    text = logged("text")
    assert "model ready" in text and "version=1" in text and "from a library" in text and "{" not in text
    lines = [json.loads(line) for line in logged("auto").splitlines()]
    assert [line["event"] for line in lines] == ["model ready", "from a library"]
    assert lines[0]["version"] == 1 and lines[1]["level"] == "warning"
