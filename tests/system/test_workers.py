"""Several processes on one port look like one service: they answer, count, stop and recover together."""

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
from urllib.error import HTTPError
from urllib.request import urlopen

import grpc
import numpy as np
import psutil
import pytest

from service.pb.inference_pb2_grpc import GRPCInferenceServiceStub
from tests.support.paths import ROOT
from tests.support.processes import ServiceProcess, clean_environment, run_command, service_process
from tests.support.requests import infer_request, outputs_of
from tests.support.waiting import WAIT, wait_until

REQUEST = infer_request("double", x=np.ones((1, 4), np.float32))


def ask(address: str, times: int) -> int:
    """Call that often, each time on a connection of its own; how many answers came."""
    answered = 0
    for number in range(times):
        options = [("grpc.use_local_subchannel_pool", 1), ("number", number)]
        with grpc.insecure_channel(address, options=options) as channel, contextlib.suppress(grpc.RpcError):
            response = GRPCInferenceServiceStub(channel).ModelInfer(REQUEST, timeout=WAIT)
            assert (outputs_of(response)["y"] == 2).all()
            answered += 1
    return answered


def page(service: ServiceProcess, path: str = "/metrics") -> str:
    try:
        with urlopen(service.metrics.replace("/metrics", path), timeout=WAIT) as answer:
            return str(answer.read().decode())
    except HTTPError as error:
        return str(error.read().decode())


def count(service: ServiceProcess) -> float:
    found = re.search(r'^inference_requests_total\{code="OK".*\} ([\d.e+]+)$', page(service), re.MULTILINE)
    return float(found[1]) if found else 0.0


def workers_of(service: ServiceProcess) -> list[int]:
    """The process ids of the workers that listened last, by their number."""
    listening = {line["worker"]: line["pid"] for line in service.events if line["event"] == "listening"}
    return [pid for _, pid in sorted(listening.items())]


@pytest.fixture
def team(toys: Path, grpc_server: str) -> Any:
    """Two workers, both listening."""
    with service_process(toys, "--workers", "2", "--grpc-server", grpc_server) as service:
        wait_until(lambda: len(workers_of(service)) == 2, "both listen")
        yield service


def test_both_answer_on_one_port_and_are_counted_as_one(team: ServiceProcess) -> None:
    assert page(team, "/readyz") == "ready\n"
    assert ask(team.address, 40) == 40
    assert count(team) == 40
    text = page(team)
    assert 'inference_model_ready{model="double",version="1"} 1.0' in text
    assert "inference_queue_rows" in text and text.count("# HELP inference_rows_total") == 1
    assert team.stop() == 0
    answered = [line["answered"] for line in team.events if line["event"] == "stopped"]
    assert sum(answered) == 40 and min(answered) > 0, "the kernel gave all connections to one"


def test_a_worker_that_dies_is_started_again_and_nothing_it_counted_is_lost(team: ServiceProcess) -> None:
    assert ask(team.address, 20) == 20
    assert count(team) == 20
    first = workers_of(team)
    os.kill(first[0], signal.SIGKILL)
    wait_until(lambda: team.has("worker exited, restarting"), "it is missed")
    assert page(team, "/readyz") == "ready\n", "the other answers"
    wait_until(lambda: workers_of(team)[0] != first[0], "another took its place")
    assert workers_of(team)[1] == first[1]
    assert count(team) == 20
    assert ask(team.address, 20) == 20
    assert count(team) == 40
    assert team.stop() == 0


def test_a_signal_to_reload_reaches_every_worker(team: ServiceProcess, toys: Path) -> None:
    (toys / "lookup").rename(toys.parent / "gone")
    team.process.send_signal(signal.SIGHUP)
    wait_until(lambda: sum(line["event"] == "model unloaded" for line in team.events) == 2, "both unload it")


def test_workers_end_when_the_supervisor_is_killed(team: ServiceProcess) -> None:
    workers = [psutil.Process(pid) for pid in workers_of(team)]
    team.process.kill()
    _, alive = psutil.wait_procs(workers, WAIT)
    assert not alive


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_that_comes_while_workers_are_started_ends_them_all(toys: Path, number: signal.Signals) -> None:
    command = [
        sys.executable,
        "-m",
        "service",
        "--model-repository",
        str(toys),
        "--workers",
        "3",
        "--log-format",
        "json",
    ]
    command += ["--grpc-port", "0", "--metrics-port", "0", "--lame-duck-seconds", "0"]
    for delay in (0.0, 0.05, 0.2, 0.4):
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=clean_environment()) as process:
            assert process.stderr is not None
            assert '"metrics"' in process.stderr.readline()
            time.sleep(delay)  # whichever moment of the start it meets
            process.send_signal(number)
            rest = process.stderr.read()
            assert process.wait(WAIT) == 0, rest
        assert "Traceback" not in rest


def test_no_worker_is_ready_while_none_has_its_models(tmp_path: Path) -> None:
    with service_process(tmp_path, "--workers", "2", ready=False) as service:
        assert "no model" in page(service, "/readyz")
        assert service.stop() == 0


def test_a_port_that_is_taken_is_refused_though_workers_could_share_it(toys: Path) -> None:
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        result = run_command("service", "--model-repository", str(toys), "--workers", "2", "--grpc-port", port)
    assert result.returncode == 2
    assert f"--grpc-port {port}" in result.stderr


def test_what_no_worker_can_have_ends_them_all_and_is_said(tmp_path: Path) -> None:
    started = time.monotonic()
    result = run_command("service", "--model-repository", str(tmp_path / "none"), "--workers", "2", "--grpc-port", "0")
    assert result.returncode == 2
    assert "no such folder" in result.stderr
    assert time.monotonic() - started < WAIT


def test_control_that_would_reach_one_worker_of_several_is_refused() -> None:
    result = run_command("service", "--workers", "2", "--enable-model-control")
    assert result.returncode == 2 and "reaches one worker only" in result.stderr
