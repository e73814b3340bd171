"""What happens when an engine breaks, when replicas share a port, and when connections come of age."""

import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import grpc
import numpy as np
import pytest

from service.pb import health_pb2, health_pb2_grpc
from service.pb import inference_pb2 as pb
from service.pb.inference_pb2_grpc import GRPCInferenceServiceStub
from service.runtime.session import Engine
from service.transport.grpc.listeners import close_listeners, open_connections
from tests.support import (
    ROOT,
    WAIT,
    LocalService,
    add_version,
    clean_environment,
    copy_repository,
    doubling_model,
    infer_request,
    service_process,
    wait_until,
)
from tests.test_errors_on_the_wire import Refusal

X = np.arange(4, dtype=np.float32).reshape(1, 4)
MODEL = "mnist-simplecnn"
IMAGE = np.zeros((1, 28, 28, 1), np.uint8)


def read(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=WAIT) as response:
            return int(response.status), response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_an_engine_that_breaks_makes_the_service_unready_and_tells_all_who_wait(
    published: Path, tmp_path: Path, grpc_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = copy_repository(published, tmp_path / "models")
    add_version(repository, "double", doubling_model(), config="max_batch_size: 8 dynamic_batching { }")
    broken = threading.Event()
    run = Engine.run

    def break_down(engine: Engine, inputs: tuple[np.ndarray, ...]) -> object:
        if broken.is_set() and inputs[0].dtype == np.uint8:
            raise RuntimeError("CUDA error 719: unspecified launch failure")
        return run(engine, inputs)

    monkeypatch.setattr(Engine, "run", break_down)
    service = LocalService(repository, grpc_server).ready()
    try:
        health = health_pb2_grpc.HealthStub(service.channel)
        watch = health.Watch(health_pb2.HealthCheckRequest(service=MODEL))
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        broken.set()
        with pytest.raises(grpc.RpcError) as caught:
            service.stub.ModelInfer(infer_request(MODEL, images=IMAGE))
        first = Refusal(caught.value)
        assert first.code is grpc.StatusCode.INTERNAL and "CUDA" not in first.text
        assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
        with pytest.raises(grpc.RpcError) as caught:
            service.stub.ModelInfer(infer_request(MODEL, images=IMAGE))
        assert Refusal(caught.value).code is grpc.StatusCode.UNAVAILABLE
        status, reason = read(service.server.metrics_url.replace("/metrics", "/readyz"))
        assert status == 503 and "the engine is broken" in reason
        assert not service.stub.ModelReady(pb.ModelReadyRequest(name=MODEL)).ready
        (index,) = [m for m in service.stub.RepositoryIndex(pb.RepositoryIndexRequest()).models if m.name == MODEL]
        assert index.state == "UNAVAILABLE" and "unspecified launch failure" in index.reason
        assert service.stub.ModelInfer(infer_request("double", x=X)).model_name == "double", "the others are well"
        watch.cancel()
    finally:
        service.stop()


BREAKS = """
import sys
from pathlib import Path
from service.__main__ import main
from service.runtime.session import Engine
flag, *sys.argv[1:] = sys.argv[1:]
run = Engine.run
def breaks(engine, inputs):
    if Path(flag).exists():
        raise RuntimeError("the device is lost")
    return run(engine, inputs)
Engine.run = breaks
main()
"""


def test_an_engine_that_breaks_ends_the_process_with_status_3(published: Path, tmp_path: Path) -> None:
    flag = tmp_path / "broken"
    port = free_port()
    command = [sys.executable, "-c", BREAKS, str(flag), "--model-repository", str(published), "--grpc-port", str(port)]
    # Opened only once it is ready, --reuse-port saves the waiting for that.
    command += ["--metrics-port", "0", "--lame-duck-seconds", "0.2", "--device", "cpu", "--reuse-port"]
    process = subprocess.Popen(command, cwd=ROOT, env=clean_environment(), stderr=subprocess.PIPE, text=True)
    try:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            stub = GRPCInferenceServiceStub(channel)
            stub.ModelInfer(infer_request(MODEL, images=IMAGE), wait_for_ready=True, timeout=WAIT)
            flag.touch()
            with pytest.raises(grpc.RpcError):
                stub.ModelInfer(infer_request(MODEL, images=IMAGE), timeout=WAIT)
        assert process.wait(WAIT) == 3
        assert process.stderr is not None and "engine broken" in process.stderr.read()
    finally:
        process.kill()
        process.communicate()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        return int(holder.getsockname()[1])


def test_replicas_share_a_port_and_one_that_stops_fails_no_call(toys: Path) -> None:
    """On the grpcio grpc_server, without any retries; `make soak-restart` does it for a minute and on both grpc_servers."""
    flags = [
        "--grpc-server",
        "aio",
        "--reuse-port",
        "--grpc-port",
        str(free_port()),
        "--max-connection-age-seconds",
        "0.5",
    ]
    failures: list[grpc.RpcError] = []
    stop, count = threading.Event(), [0]

    def call() -> None:
        with grpc.insecure_channel(one.address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
            stub = GRPCInferenceServiceStub(channel)
            while not stop.is_set():
                try:
                    stub.ModelInfer(infer_request("double", x=X), timeout=WAIT)
                    count[0] += 1
                except grpc.RpcError as error:
                    failures.append(error)

    with service_process(toys, *flags, "--lame-duck-seconds", "0.2") as one, service_process(toys, *flags) as other:
        callers = [threading.Thread(target=call) for _ in range(8)]
        for caller in callers:
            caller.start()
        # The kernel shares connections out by chance, anew as they come of age.
        wait_until(lambda: 'code="OK"' in read(one.metrics)[1], "the one answers some of them")
        assert one.stop(signal.SIGTERM) == 0
        before = count[0]
        wait_until(lambda: count[0] > before + 100, "the other answers")
        stop.set()
        for caller in callers:
            caller.join(WAIT)
        assert not failures
        assert one.event("stopped")["answered"] and other.process.poll() is None


def test_a_shared_port_is_not_opened_before_there_is_something_to_answer(tmp_path: Path, toys: Path) -> None:
    (tmp_path / "models").mkdir()
    port = free_port()
    flags = ["--reuse-port", "--grpc-port", str(port), "--repository-poll-seconds", "0.05"]
    with service_process(tmp_path / "models", *flags, ready=False) as late:
        assert not late.has("listening")
        with pytest.raises(OSError, match="refused"):
            socket.create_connection(("127.0.0.1", port), timeout=1)
        shutil.copytree(toys / "double", tmp_path / "models" / "double")
        wait_until(lambda: late.has("listening"), "it opens")
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            GRPCInferenceServiceStub(channel).ModelInfer(infer_request("double", x=X), timeout=WAIT)


def test_a_service_without_clients_does_not_wait_for_them(toys: Path) -> None:
    with service_process(
        toys, "--grpc-server", "aio", "--lame-duck-seconds", "0.1", "--max-connection-age-seconds", "60"
    ) as service:
        started = time.monotonic()
        assert service.stop(signal.SIGTERM) == 0
        assert time.monotonic() - started < 10


def test_sockets_of_this_process_are_found_and_closed_to_new_connections() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):
            accepted, _ = server.accept()
            assert open_connections(port) == 1
            close_listeners(port)
            with pytest.raises(OSError, match="refused"):
                socket.create_connection(("127.0.0.1", port), timeout=1)
            accepted.sendall(b"still open")
            accepted.close()
            assert open_connections(port) == 0
