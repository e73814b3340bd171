"""`--workers N`: several processes on one port answer, count, stop and recover like one service."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import psutil
import pytest

from service.pb.inference_pb2_grpc import GRPCInferenceServiceStub
from tests.support.http import get
from tests.support.paths import ROOT
from tests.support.processes import ServiceProcess, clean_environment, run_command, service_process
from tests.support.requests import infer_request, outputs_of
from tests.support.waiting import WAIT, wait_until

REQUEST = infer_request("double", x=np.ones((1, 4), np.float32))


def call_on_new_connections(address: str, calls: int) -> int:
    """Call that often, each time on a new connection; returns the number of answers."""
    answered = 0
    for number in range(calls):
        options = [("grpc.use_local_subchannel_pool", 1), ("number", number)]
        with grpc.insecure_channel(address, options=options) as channel, contextlib.suppress(grpc.RpcError):
            response = GRPCInferenceServiceStub(channel).ModelInfer(REQUEST, timeout=WAIT)
            assert (outputs_of(response)["y"] == 2).all()
            answered += 1
    return answered


def page(service: ServiceProcess, path: str = "/metrics") -> str:
    """The body of a response from the metrics port."""
    return get(service.metrics.replace("/metrics", path))[1]


def requests_total(service: ServiceProcess) -> float:
    """The service's count of requests that were answered OK."""
    found = re.search(r'^inference_requests_total\{code="OK".*\} ([\d.e+]+)$', page(service), re.MULTILINE)
    return float(found[1]) if found else 0.0


def workers_of(service: ServiceProcess) -> list[int]:
    """The process ids of the workers that listened last, in the order of their index."""
    listening = {line["worker"]: line["pid"] for line in service.events if line["event"] == "listening"}
    return [pid for _, pid in sorted(listening.items())]


@pytest.fixture
def two_workers(toys: Path, grpc_server: str) -> Any:
    """A service with two workers, both listening."""
    with service_process(toys, "--workers", "2", "--grpc-server", grpc_server) as service:
        wait_until(lambda: len(workers_of(service)) == 2, "both workers listen")
        yield service


def test_both_workers_answer_on_one_port_and_are_counted_together(two_workers: ServiceProcess) -> None:
    assert page(two_workers, "/readyz") == "ready\n"
    assert call_on_new_connections(two_workers.address, 40) == 40
    assert requests_total(two_workers) == 40
    text = page(two_workers)
    assert 'inference_model_ready{model="double",version="1"} 1.0' in text
    assert "inference_queue_rows" in text and text.count("# HELP inference_rows_total") == 1
    assert two_workers.stop() == 0
    answered = [line["answered"] for line in two_workers.events if line["event"] == "stopped"]
    assert sum(answered) == 40 and min(answered) > 0, "one worker got all connections"


def test_a_killed_worker_is_restarted_and_its_counts_are_kept(two_workers: ServiceProcess) -> None:
    assert call_on_new_connections(two_workers.address, 20) == 20
    assert requests_total(two_workers) == 20
    first = workers_of(two_workers)
    os.kill(first[0], signal.SIGKILL)
    wait_until(lambda: two_workers.has("worker exited, restarting"), "the supervisor restarts the worker")
    assert page(two_workers, "/readyz") == "ready\n", "the other worker does not answer"
    wait_until(lambda: workers_of(two_workers)[0] != first[0], "a new process listens")
    assert workers_of(two_workers)[1] == first[1]
    assert requests_total(two_workers) == 20
    assert call_on_new_connections(two_workers.address, 20) == 20
    assert requests_total(two_workers) == 40
    assert two_workers.stop() == 0


def test_sighup_reaches_every_worker(two_workers: ServiceProcess, toys: Path) -> None:
    (toys / "lookup").rename(toys.parent / "gone")
    two_workers.process.send_signal(signal.SIGHUP)
    wait_until(
        lambda: sum(line["event"] == "model unloaded" for line in two_workers.events) == 2,
        "both workers unload the model",
    )


def test_workers_stop_when_the_supervisor_is_killed(two_workers: ServiceProcess) -> None:
    workers = [psutil.Process(pid) for pid in workers_of(two_workers)]
    two_workers.process.kill()
    _, alive = psutil.wait_procs(workers, WAIT)
    assert not alive


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_during_start_up_stops_every_worker(toys: Path, number: signal.Signals) -> None:
    command = [sys.executable, "-m", "service", "--model-repository", str(toys), "--workers", "3"]
    command += ["--log-format", "json", "--grpc-port", "0", "--metrics-port", "0", "--lame-duck-seconds", "0"]
    for delay in (0.0, 0.05, 0.2, 0.4):
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=clean_environment()) as process:
            assert process.stderr is not None
            assert '"metrics listening"' in process.stderr.readline()
            time.sleep(delay)  # the signal comes at different moments of the start
            process.send_signal(number)
            rest = process.stderr.read()
            assert process.wait(WAIT) == 0, rest
        assert "Traceback" not in rest


def test_the_service_is_unready_while_no_worker_has_a_model(tmp_path: Path) -> None:
    with service_process(tmp_path, "--workers", "2", ready=False) as service:
        assert "no model" in page(service, "/readyz")
        assert service.stop() == 0


def test_a_port_in_use_is_refused_although_workers_could_share_it(toys: Path) -> None:
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        result = run_command("service", "--model-repository", str(toys), "--workers", "2", "--grpc-port", port)
    assert result.returncode == 2
    assert f"--grpc-port {port}" in result.stderr


def test_a_setting_that_no_worker_can_use_stops_all_with_status_2(tmp_path: Path) -> None:
    started = time.monotonic()
    result = run_command("service", "--model-repository", str(tmp_path / "none"), "--workers", "2", "--grpc-port", "0")
    assert result.returncode == 2
    assert "no such folder" in result.stderr
    assert time.monotonic() - started < WAIT


def test_model_control_is_refused_with_several_workers() -> None:
    result = run_command("service", "--workers", "2", "--enable-model-control")
    assert result.returncode == 2 and "reaches one worker only" in result.stderr
