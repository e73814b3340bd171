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

from service.pb.inference_pb2_grpc import GRPCInferenceServiceStub
from tests.support.paths import ROOT
from tests.support.processes import clean_environment, service_process
from tests.support.requests import infer_request
from tests.support.waiting import WAIT, wait_until

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
    """On the aio server, without retries; `make soak-restart` does it for a minute, on both servers."""
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
