"""Processes that stop: a broken engine, replicas that share a port, and the maximum age of connections."""

import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import grpc
import numpy as np
import pytest

from service.pb.inference_pb2_grpc import GRPCInferenceServiceStub
from tests.support.http import get
from tests.support.paths import ROOT
from tests.support.processes import clean_environment, free_port, service_process
from tests.support.requests import infer_request
from tests.support.waiting import WAIT, wait_until

X = np.arange(4, dtype=np.float32).reshape(1, 4)
MODEL = "mnist-simplecnn"
IMAGE = np.zeros((1, 28, 28, 1), np.uint8)


SERVICE_THAT_BREAKS = """
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
    command = [sys.executable, "-c", SERVICE_THAT_BREAKS, str(flag), "--model-repository", str(published)]
    # With --reuse-port, the service opens the port only once it is ready: a client that waits for the port is enough.
    command += ["--reuse-port", "--grpc-port", str(port)]
    command += ["--metrics-port", "0", "--lame-duck-seconds", "0.2", "--device", "cpu"]
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


def test_a_replica_on_a_shared_port_stops_without_failing_a_call(toys: Path) -> None:
    """On the aio server, without retries. `make soak-restart` does it for a minute, on both servers."""
    flags = ["--grpc-server", "aio", "--reuse-port", "--grpc-port", str(free_port())]
    flags += ["--max-connection-age-seconds", "0.5"]
    failures: list[grpc.RpcError] = []
    stop, count = threading.Event(), [0]

    def call() -> None:
        with grpc.insecure_channel(first.address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
            stub = GRPCInferenceServiceStub(channel)
            while not stop.is_set():
                try:
                    stub.ModelInfer(infer_request("double", x=X), timeout=WAIT)
                    count[0] += 1
                except grpc.RpcError as error:
                    failures.append(error)

    with service_process(toys, *flags, "--lame-duck-seconds", "0.2") as first, service_process(toys, *flags) as second:
        callers = [threading.Thread(target=call) for _ in range(8)]
        for caller in callers:
            caller.start()
        # The kernel assigns connections at random, and again when they reconnect at their maximum age.
        wait_until(lambda: 'code="OK"' in get(first.metrics)[1], "the first replica answers calls")
        assert first.stop(signal.SIGTERM) == 0
        before = count[0]
        wait_until(lambda: count[0] > before + 100, "the second replica answers calls")
        stop.set()
        for caller in callers:
            caller.join(WAIT)
        assert not failures
        assert first.event("stopped")["answered"] and second.process.poll() is None


def test_a_shared_port_is_opened_only_once_a_model_is_ready(tmp_path: Path, toys: Path) -> None:
    (tmp_path / "models").mkdir()
    port = free_port()
    flags = ["--reuse-port", "--grpc-port", str(port), "--repository-poll-seconds", "0.05"]
    with service_process(tmp_path / "models", *flags, ready=False) as late:
        assert not late.has("listening")
        with pytest.raises(OSError, match="refused"):
            socket.create_connection(("127.0.0.1", port), timeout=1)
        shutil.copytree(toys / "double", tmp_path / "models" / "double")
        wait_until(lambda: late.has("listening"), "the port is open")
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            GRPCInferenceServiceStub(channel).ModelInfer(infer_request("double", x=X), timeout=WAIT)


def test_a_service_without_connections_does_not_wait_for_their_maximum_age(toys: Path) -> None:
    with service_process(
        toys, "--grpc-server", "aio", "--lame-duck-seconds", "0.1", "--max-connection-age-seconds", "60"
    ) as service:
        started = time.monotonic()
        assert service.stop(signal.SIGTERM) == 0
        assert time.monotonic() - started < 10
