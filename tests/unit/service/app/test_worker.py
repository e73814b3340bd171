"""What a supervisor decides about one worker: restart, back off, kill, stop. No process runs; time is given."""

import multiprocessing
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection

import pytest

from service.app.worker import (
    FIRST_PAUSE_SECONDS,
    MAX_PAUSE_SECONDS,
    SHORT_LIFE_SECONDS,
    SILENT_TICKS,
    START_TICKS,
    Worker,
    WorkerProcess,
)
from service.app.worker_process import Command, Report
from service.core.lifecycle import Phase
from service.telemetry.merge import Family
from service.telemetry.workers import EXIT, SILENT
from tests.support.waiting import wait_until

READY = Report(Phase.READY, "", [])


class FakeProcess:
    """A process that ends when it is told to."""

    sentinel = 0

    def __init__(self) -> None:
        self.exitcode: int | None = None

    def kill(self) -> None:
        self.exitcode = -9

    def join(self) -> None:
        """It has ended."""


@dataclass
class Bench:
    """A worker, its current fake process, the worker's end of the pipe, and the time."""

    now: float = 100.0
    metrics: list[object] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.worker = Worker(0, self._start, clock=lambda: self.now)
        self.pipes: list[Connection] = []

    def _start(self, _index: int) -> WorkerProcess:
        ours, theirs = multiprocessing.Pipe()
        self.pipes.append(theirs)
        self.process = FakeProcess()
        self.started = WorkerProcess(self.process, ours, self.metrics.append)  # type: ignore[arg-type]
        return self.started

    def report(self, report: Report) -> None:
        """The process reports, and the supervisor has received it."""
        self.pipes[-1].send(report)
        wait_until(lambda: self.started.report == report, "the report is received")

    def end(self, status: int) -> None:
        """The process exits: its end of the pipe is closed."""
        self.process.exitcode = status
        self.pipes[-1].close()

    def lives(self, seconds: float) -> float:
        """A process is started when it is due, lives for that time and exits; returns the pause that follows."""
        self.now = max(self.now, self.worker.restart_at)
        self.worker.start_if_due()
        self.now += seconds
        self.end(1)
        ended = self.worker.reap()
        assert ended is not None
        return ended.pause_seconds


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    for pipe in bench.pipes:
        pipe.close()


def test_a_worker_that_exits_at_once_waits_longer_each_time(bench: Bench) -> None:
    pauses = [bench.lives(1.0) for _ in range(9)]
    assert pauses[:3] == [2 * FIRST_PAUSE_SECONDS, 4 * FIRST_PAUSE_SECONDS, 8 * FIRST_PAUSE_SECONDS]
    assert pauses[-2:] == [MAX_PAUSE_SECONDS] * 2


def test_a_worker_that_stays_up_starts_over(bench: Bench) -> None:
    assert bench.lives(1.0) > bench.lives(SHORT_LIFE_SECONDS + 1) == FIRST_PAUSE_SECONDS


def test_no_process_starts_before_the_pause_is_over(bench: Bench) -> None:
    bench.lives(1.0)
    bench.worker.start_if_due()
    assert bench.worker.sentinel is None and bench.worker.state == "restarting"
    bench.now = bench.worker.restart_at
    bench.worker.start_if_due()
    assert bench.worker.sentinel is not None


def test_the_state_and_the_reason_are_those_of_the_last_report(bench: Bench) -> None:
    bench.worker.start_if_due()
    assert (bench.worker.state, bench.worker.unready_reason) == ("starting", None)
    for report, state in [
        (Report(Phase.STARTING, "models are still loading", []), "starting"),
        (Report(Phase.READY, "no model answers", []), "unready"),
        (Report(Phase.READY, "", []), "ready"),
        (Report(Phase.LAME_DUCK, "draining", []), "stopping"),
    ]:
        bench.report(report)
        assert (bench.worker.state, bench.worker.unready_reason) == (state, report.unready_reason)


def test_the_state_can_be_read_while_the_supervisor_forgets_the_process(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """/metrics is answered by another thread than the supervisor's."""
    bench.worker.start_if_due()
    reads = iter([bench.started, None])
    monkeypatch.setattr(Worker, "_running", property(lambda _: next(reads)), raising=False)
    assert bench.worker.state == "starting"


def test_a_worker_is_killed_after_so_many_ticks_without_a_report_and_only_once(bench: Bench) -> None:
    bench.worker.start_if_due()
    bench.report(READY)
    assert not any(bench.worker.tick() for _ in range(SILENT_TICKS - 1))
    bench.report(Report(Phase.READY, "", [("a", "", "gauge", [])]))
    assert not any(bench.worker.tick() for _ in range(SILENT_TICKS - 1)), "a report did not reset the count"
    assert bench.worker.tick() and bench.process.exitcode == -9
    assert not bench.worker.tick()
    bench.pipes[-1].close()
    ended = bench.worker.reap()
    assert ended is not None and (ended.reason, ended.status) == (SILENT, -9)


def test_a_worker_that_starts_has_more_time_for_its_first_report(bench: Bench) -> None:
    bench.worker.start_if_due()
    assert not any(bench.worker.tick() for _ in range(START_TICKS - 1))
    assert bench.worker.tick()


def test_time_in_which_the_supervisor_was_frozen_too_does_not_count(bench: Bench) -> None:
    bench.worker.start_if_due()
    bench.report(READY)
    bench.now += 3600
    assert not bench.worker.tick()


def test_what_a_process_reported_last_is_received_after_its_exit(bench: Bench) -> None:
    bench.worker.start_if_due()
    counts: list[Family] = [("inference_rows", "", "counter", [("inference_rows_total", {}, 7.0)])]
    bench.pipes[-1].send(READY)
    bench.pipes[-1].send(Report(Phase.STOPPED, "draining", counts))
    bench.end(0)
    ended = bench.worker.reap()
    assert ended is not None and (ended.status, ended.reason) == (0, EXIT)
    assert bench.metrics[-1] == counts


def test_metrics_that_could_not_be_collected_leave_the_last_ones(bench: Bench) -> None:
    bench.worker.start_if_due()
    bench.report(READY)
    bench.report(Report(Phase.READY, "", None))
    assert bench.metrics == [[]]


def test_a_worker_is_told_to_stop_once(bench: Bench) -> None:
    bench.worker.start_if_due()
    bench.report(READY)
    bench.worker.reload()
    for _ in range(3):
        bench.worker.stop(Command.STOP)
    assert [bench.pipes[-1].recv(), bench.pipes[-1].recv()] == [Command.RELOAD, Command.STOP]
    assert not bench.pipes[-1].poll() and bench.process.exitcode is None


def test_a_process_that_has_not_reported_yet_is_killed_instead(bench: Bench) -> None:
    bench.worker.start_if_due()
    bench.worker.stop(Command.STOP)
    bench.pipes[-1].close()
    ended = bench.worker.reap()
    assert ended is not None and ended.killed_in_startup
