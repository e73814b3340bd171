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
from tests.support.models import add_version, endless_model
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


def wait_for_requests(service: ServiceProcess, count: float) -> None:
    """Wait until the workers have reported that many requests: a report is at most a second old."""
    wait_until(lambda: requests_total(service) >= count, f"{count} requests are counted")
    assert requests_total(service) == count


def workers_of(service: ServiceProcess) -> list[int]:
    """The process ids of the workers that listened last, in the order of their index."""
    listening = {line["worker"]: line["pid"] for line in service.events if line["event"] == "listening"}
    return [pid for _, pid in sorted(listening.items())]


@pytest.fixture
def two_workers(toys: Path, grpc_server: str, own_temporary_folder: Path) -> Any:
    """A service with two workers, both listening."""
    assert own_temporary_folder.is_dir()
    with service_process(toys, "--workers", "2", "--grpc-server", grpc_server) as service:
        wait_until(lambda: len(workers_of(service)) == 2, "both workers listen")
        yield service


def test_both_workers_answer_on_one_port_and_are_counted_together(two_workers: ServiceProcess) -> None:
    wait_until(lambda: page(two_workers, "/readyz") == "ready\n", "a worker reports that it is ready")
    assert call_on_new_connections(two_workers.address, 40) == 40
    wait_for_requests(two_workers, 40)
    text = page(two_workers)
    assert 'inference_model_ready{model="double",version="1"} 1.0' in text
    assert "inference_queue_rows" in text and text.count("# HELP inference_rows_total") == 1
    assert two_workers.stop() == 0
    answered = [line["answered"] for line in two_workers.events if line["event"] == "stopped"]
    assert sum(answered) == 40 and min(answered) > 0, "one worker got all connections"


def test_with_strict_readiness_a_refused_model_makes_workers_unready_and_the_others_answer(toys: Path) -> None:
    """As one process does: strict readiness is about the probes, not about who answers."""
    add_version(toys, "broken", b"no graph")
    with service_process(toys, "--workers", "2", "--strict-readiness", until="listening") as service:
        wait_until(lambda: len(workers_of(service)) == 2, "both workers listen")
        assert call_on_new_connections(service.address, 4) == 4
        wait_until(lambda: "a model does not answer: broken 1" in page(service, "/readyz"), "the probe says why")


def test_a_killed_worker_is_restarted_and_its_counts_are_kept(two_workers: ServiceProcess) -> None:
    assert call_on_new_connections(two_workers.address, 20) == 20
    wait_for_requests(two_workers, 20)
    first = workers_of(two_workers)
    os.kill(first[0], signal.SIGKILL)
    wait_until(lambda: two_workers.has("worker exited, restarting"), "the supervisor restarts the worker")
    assert page(two_workers, "/readyz") == "ready\n", "the other worker does not answer"
    wait_until(lambda: workers_of(two_workers)[0] != first[0], "a new process listens")
    assert workers_of(two_workers)[1] == first[1]
    assert requests_total(two_workers) == 20
    assert call_on_new_connections(two_workers.address, 20) == 20
    wait_for_requests(two_workers, 40)
    assert 'inference_worker_restarts_total{reason="exit"} 1.0' in page(two_workers)
    assert two_workers.stop() == 0


def test_sighup_reaches_every_worker(two_workers: ServiceProcess, toys: Path) -> None:
    (toys / "lookup").rename(toys.parent / "gone")
    two_workers.process.send_signal(signal.SIGHUP)
    wait_until(
        lambda: sum(line["event"] == "model unloaded" for line in two_workers.events) == 2,
        "both workers unload the model",
    )


def descendants(service: ServiceProcess) -> list[psutil.Process]:
    """Every process of the service but the first: workers, what forks them, and what tracks their resources."""
    return psutil.Process(service.process.pid).children(recursive=True)


def survivors(processes: list[psutil.Process]) -> list[psutil.Process]:
    """The processes that do not end by themselves; they are killed."""
    _, alive = psutil.wait_procs(processes, WAIT)
    for process in alive:
        process.kill()
    return alive


def start_loading(toys: Path) -> None:
    """Replace a model by one whose verification never ends."""
    (toys / "double" / "1" / "model.onnx").write_bytes(endless_model())


def both_load(service: ServiceProcess) -> bool:
    """Whether both workers compute the verification that never ends; one that has not reported is killed by a stop."""
    return sum(process.cpu_times().user > 2.0 for process in descendants(service)) == 2  # a start takes 0.5 s


def test_a_killed_supervisor_leaves_no_process_and_no_file(
    two_workers: ServiceProcess, own_temporary_folder: Path
) -> None:
    others = descendants(two_workers)
    assert len(others) >= 3
    two_workers.process.kill()
    assert not survivors(others)
    assert not list(own_temporary_folder.glob("simplecnn-*"))


def test_a_supervisor_that_is_killed_while_workers_load_or_are_lame_ducks_leaves_no_process(toys: Path) -> None:
    start_loading(toys)
    for signals in ([], [signal.SIGTERM]):
        with service_process(
            toys, "--workers", "2", "--lame-duck-seconds", "600", until="metrics listening"
        ) as service:
            wait_until(lambda: both_load(service), "both workers load")
            others = descendants(service)
            for number in signals:
                service.process.send_signal(number)
                wait_until(lambda: service.count("draining") == 2, "the workers are lame ducks")
            service.process.kill()
            assert not survivors(others)


def test_a_supervisor_that_is_killed_while_workers_start_leaves_no_process(toys: Path) -> None:
    with service_process(toys, "--workers", "3", until="metrics listening") as service:
        wait_until(lambda: len(descendants(service)) >= 3, "the first worker starts")
        others = descendants(service)
        service.process.kill()
        assert not survivors(others)


def test_a_worker_that_hangs_does_not_outlive_a_killed_supervisor(toys: Path) -> None:
    with service_process(toys, "--workers", "2") as service:
        wait_until(lambda: service.count("ready") == 2, "both workers are ready")
        others = descendants(service)
        hung = workers_of(service)[0]
        os.kill(hung, signal.SIGSTOP)
        service.process.kill()
        assert not survivors(others)


def test_a_stopped_worker_holds_up_no_probe_and_is_replaced(toys: Path) -> None:
    """A worker that hangs answers nothing; SIGSTOP makes one hang."""
    with service_process(toys, "--workers", "2") as service:
        wait_until(lambda: service.count("ready") == 2, "both workers are ready")
        wait_until(lambda: page(service, "/readyz") == "ready\n", "a worker reports that it is ready")
        first = workers_of(service)
        os.kill(first[0], signal.SIGSTOP)
        limit = time.monotonic() + WAIT
        while not service.has("worker exited, restarting"):
            for path in ("/readyz", "/livez", "/metrics"):
                assert get(service.metrics.replace("/metrics", path), timeout=1.0)[0] == 200, path
            assert time.monotonic() < limit, "the worker was not replaced"
            time.sleep(0.05)
        assert service.event("worker silent, killing")["worker"] == 0
        assert service.event("worker exited, restarting")["reason"] == "silent"
        wait_until(lambda: 'inference_workers{state="ready"} 2.0' in page(service), "a new process is ready")
        assert workers_of(service)[0] != first[0]
        assert 'inference_worker_restarts_total{reason="silent"} 1.0' in page(service)
        assert call_on_new_connections(service.address, 20) == 20
        assert service.stop() == 0


def test_a_worker_that_exits_again_and_again_is_a_metric(two_workers: ServiceProcess) -> None:
    for restarts in (1, 2, 3):
        pid = workers_of(two_workers)[0]
        os.kill(pid, signal.SIGKILL)
        expected = f'inference_worker_restarts_total{{reason="exit"}} {restarts}.0'
        wait_until(lambda expected=expected: expected in page(two_workers), expected)  # type: ignore[misc]
        wait_until(lambda pid=pid: workers_of(two_workers)[0] != pid, "a new process listens")  # type: ignore[misc]
    pauses = [line["pause_seconds"] for line in two_workers.events if line["event"] == "worker exited, restarting"]
    assert pauses == [0.5, 1.0, 2.0]


def test_a_worker_that_stops_reports_the_calls_of_its_last_second(two_workers: ServiceProcess) -> None:
    for pid in workers_of(two_workers):
        assert call_on_new_connections(two_workers.address, 5) == 5
        before = two_workers.count("worker exited, restarting")
        os.kill(pid, signal.SIGTERM)
        wait_until(lambda: two_workers.count("worker exited, restarting") == before + 1, "the worker exits")  # noqa: B023
    assert requests_total(two_workers) == 10


def test_a_stop_waits_for_no_worker_that_loads(toys: Path, own_temporary_folder: Path) -> None:
    start_loading(toys)
    with service_process(toys, "--workers", "2", until="metrics listening") as service:
        wait_until(lambda: both_load(service), "both workers load")
        assert service.stop() == 0
        assert service.count("stopped") == 2 and service.events[-1]["event"] == "all workers stopped"
    assert not list(own_temporary_folder.glob("[!.]*"))


def test_one_signal_to_the_process_group_is_one_signal(two_workers: ServiceProcess) -> None:
    """`timeout` signals the command and then its group; systemd signals every process of the service."""
    everyone = [psutil.Process(two_workers.process.pid), *descendants(two_workers)]
    for process in (everyone[0], *everyone):
        process.send_signal(signal.SIGTERM)
    assert two_workers.wait() == 0
    assert two_workers.count("stopped") == 2 and not two_workers.has("second signal, exiting at once")


def test_a_second_signal_leaves_no_worker_and_no_file(toys: Path, own_temporary_folder: Path) -> None:
    with service_process(toys, "--workers", "2", "--lame-duck-seconds", "600") as service:
        wait_until(lambda: len(workers_of(service)) == 2, "both workers listen")
        others = descendants(service)
        service.process.send_signal(signal.SIGTERM)
        wait_until(lambda: service.count("draining") == 2, "the workers are lame ducks")
        assert service.stop() == 128 + signal.SIGTERM
        assert not survivors(others)
    assert not list(own_temporary_folder.glob("[!.]*"))


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
        wait_until(lambda: "no model" in page(service, "/readyz"), "a worker reports why it is not ready")
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
