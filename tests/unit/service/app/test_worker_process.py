"""A worker's end of the pipe: it reports by itself, obeys, and no supervisor can hold it up."""

import multiprocessing
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from service.app.worker_process import Command, Report, SupervisorLink
from service.core.lifecycle import Lifecycle, Phase
from tests.support.waiting import WAIT, wait_until


@dataclass
class FakeServer:
    """What a server is to the link."""

    lifecycle: Lifecycle = field(default_factory=Lifecycle)
    reason: str = ""
    scans: int = 0
    stops: list[bool] = field(default_factory=list)

    def unready_reason(self) -> str:
        return self.reason

    def request_scan(self) -> None:
        self.scans += 1

    def request_stop(self, *, hurry: bool) -> None:
        self.stops.append(hurry)


class Calls(Collector):
    """A counter with help text of that size."""

    def __init__(self, characters: int = 0) -> None:
        self.count = 0
        self.fails = False
        self._help = "x" * characters

    def collect(self) -> Iterator[CounterMetricFamily]:
        if self.fails:
            raise ValueError("a name that is no UTF-8")
        yield CounterMetricFamily("calls", self._help, value=self.count)


@pytest.fixture
def pipe() -> Iterator[tuple[Connection, Connection]]:
    supervisor, worker = multiprocessing.Pipe()
    yield supervisor, worker
    supervisor.close()


def attached(
    pipe: tuple[Connection, Connection], folder: Path, calls: Calls
) -> tuple[SupervisorLink, FakeServer, CollectorRegistry]:
    link, server, registry = SupervisorLink(pipe[1], folder), FakeServer(), CollectorRegistry()
    registry.register(calls)
    return link, server, registry


def receive(pipe: Connection) -> Report:
    assert pipe.poll(WAIT)
    report: Report = pipe.recv()
    return report


def test_a_change_of_state_is_reported_at_once_and_the_last_report_has_every_count(
    pipe: tuple[Connection, Connection], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.app.worker_process.REPORT_SECONDS", WAIT)
    calls = Calls()
    link, server, registry = attached(pipe, tmp_path, calls)
    due = link.attach(server, registry)  # type: ignore[arg-type]
    assert receive(pipe[0]).unready_reason == ""
    server.reason = "draining"
    server.lifecycle.advance(Phase.DRAINING)
    due()
    report = receive(pipe[0])
    assert (report.phase, report.unready_reason) == (Phase.DRAINING, "draining")
    calls.count = 3
    link.detach()
    last = receive(pipe[0])
    assert last.metrics is not None and last.metrics[0][3][0][2] == 3.0
    assert not pipe[0].poll()


def test_reports_come_by_themselves(
    pipe: tuple[Connection, Connection], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.app.worker_process.REPORT_SECONDS", 0.001)
    link, server, registry = attached(pipe, tmp_path, Calls())
    link.attach(server, registry)  # type: ignore[arg-type]
    for _ in range(5):
        receive(pipe[0])
    link.detach()


def test_a_supervisor_that_does_not_read_holds_up_neither_the_service_nor_its_end(
    pipe: tuple[Connection, Connection], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.app.worker_process.LAST_REPORT_SECONDS", 0.01)
    link, server, registry = attached(pipe, tmp_path, Calls(characters=10_000_000))  # more than a pipe holds
    due = link.attach(server, registry)  # type: ignore[arg-type]
    due()
    link.detach()


def test_metrics_that_fail_are_left_out_and_the_state_is_reported(
    pipe: tuple[Connection, Connection], tmp_path: Path
) -> None:
    calls = Calls()
    link, server, registry = attached(pipe, tmp_path, calls)
    calls.fails = True
    link.attach(server, registry)  # type: ignore[arg-type]
    assert receive(pipe[0]) == Report(Phase.STARTING, "", None)
    link.detach()


def test_commands_reach_the_server(pipe: tuple[Connection, Connection], tmp_path: Path) -> None:
    link, server, registry = attached(pipe, tmp_path, Calls())
    link.attach(server, registry)  # type: ignore[arg-type]
    for command in (Command.RELOAD, Command.STOP, Command.STOP_HURRIED):
        pipe[0].send(command)
    wait_until(lambda: server.stops == [False, True], "the server is told to stop")
    assert server.scans == 1
    link.detach()


def test_a_worker_without_a_supervisor_stops_and_removes_the_folder_of_the_sockets(
    pipe: tuple[Connection, Connection], tmp_path: Path
) -> None:
    folder = tmp_path / "sockets"
    folder.mkdir()
    link, server, registry = attached(pipe, folder, Calls())
    link.attach(server, registry)  # type: ignore[arg-type]
    pipe[0].close()
    wait_until(lambda: server.stops == [True], "the server stops in a hurry")
    assert folder.exists(), "the sockets are still in use"
    link.detach()
    assert not folder.exists()
