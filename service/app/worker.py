"""A worker as its supervisor sees it: its process, its reports, and when it must be killed or started again.

Owns those decisions, one worker at a time, and the supervisor's end of the pipe. Not here: the loop that asks for them
(supervisor.py), the process (worker_process.py).
"""

import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

from service.app.worker_process import Command, Report
from service.core.lifecycle import Phase
from service.telemetry.merge import Family
from service.telemetry.workers import EXIT, SILENT

# The supervisor ends a worker that reports nothing for SILENT_TICKS of its ticks, each a second; a process that is
# starting gets START_TICKS for its first report. Ticks and not times are counted: after the whole service was frozen
# (a paused container or machine), the workers have as much time as before.
TICK_SECONDS, SILENT_TICKS, START_TICKS = 1.0, 10, 60
# A worker that exits within SHORT_LIFE_SECONDS is restarted after a pause, which doubles up to the maximum.
SHORT_LIFE_SECONDS, FIRST_PAUSE_SECONDS, MAX_PAUSE_SECONDS = 30.0, 0.25, 30.0
# Seconds to wait for the last report of a process that has exited.
LAST_REPORT_SECONDS = 2.0


class WorkerProcess:
    """A process, its pipe, and its last report, which a thread of its own receives."""

    def __init__(self, process: BaseProcess, pipe: Connection, on_metrics: Callable[[Sequence[Family]], None]) -> None:
        self.process = process
        self.report: Report | None = None
        self.silent_ticks = 0  # since that report
        self._pipe = pipe
        self._on_metrics = on_metrics
        self._receiver = threading.Thread(target=self._receive, name="worker-reports", daemon=True)
        self._receiver.start()

    def tell(self, command: Command) -> None:
        """Send a command; nothing happens if the process has exited."""
        with contextlib.suppress(OSError):
            self._pipe.send(command)

    def close(self) -> None:
        """After the process has exited, receive what it still sent."""
        self._receiver.join(LAST_REPORT_SECONDS)
        self._pipe.close()

    def _receive(self) -> None:
        with contextlib.suppress(EOFError, OSError):
            while True:
                report: Report = self._pipe.recv()
                self.silent_ticks = 0
                self.report = report
                if report.metrics is not None:
                    self._on_metrics(report.metrics)


@dataclass(frozen=True)
class Exit:
    """How a process ended."""

    status: int  # negative for a signal
    reason: str  # EXIT, or SILENT if it was killed for that
    killed_in_startup: bool  # by stop(), before its first report
    pause_seconds: float  # until the next start


class Worker:
    """One of the service's workers: its current process, and when to start the next one."""

    def __init__(
        self, index: int, start: Callable[[int], WorkerProcess], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.index = index
        self.restart_at = 0.0
        self._start = start
        self._clock = clock
        self._running: WorkerProcess | None = None
        self._started = 0.0
        self._pause = FIRST_PAUSE_SECONDS
        self._told_to_stop = self._killed_in_startup = self._killed_for_silence = False

    # --- what it is ---

    @property
    def sentinel(self) -> int | None:
        """A handle that becomes readable when the process exits; None without a process."""
        return None if self._running is None else self._running.process.sentinel

    @property
    def state(self) -> str:
        """One of telemetry's STATES, from the last report."""
        running = self._running  # read once: a thread that answers a probe asks too
        if running is None:
            return "restarting"
        report = running.report
        if report is None or report.phase is Phase.STARTING:
            return "starting"
        if report.phase > Phase.READY:
            return "stopping"
        return "unready" if report.unready_reason else "ready"

    @property
    def unready_reason(self) -> str | None:
        """The reason in the last report, "" if the worker is ready; None without a report."""
        running = self._running
        return None if running is None or running.report is None else running.report.unready_reason

    # --- what to do with it ---

    def start_if_due(self) -> None:
        """Start a process if there is none and the pause is over."""
        if self._running is None and self.restart_at <= self._clock():
            self._running = self._start(self.index)
            self._started = self._clock()
            self._told_to_stop = self._killed_in_startup = self._killed_for_silence = False

    def tick(self) -> bool:
        """Count a tick of the supervisor; kill the process if it was silent for too many, and say so."""
        running = self._running
        if running is None:
            return False
        running.silent_ticks += 1
        if self._killed_for_silence or running.silent_ticks < (SILENT_TICKS if running.report else START_TICKS):
            return False
        self._killed_for_silence = True
        running.process.kill()
        return True

    def reap(self) -> Exit | None:
        """Forget a process that has exited, and decide when the next one may start; None while it runs."""
        running = self._running
        if running is None or running.process.exitcode is None:
            return None
        running.close()
        self._running = None
        now = self._clock()
        short = now - self._started <= SHORT_LIFE_SECONDS
        self._pause = min(2 * self._pause, MAX_PAUSE_SECONDS) if short else FIRST_PAUSE_SECONDS
        self.restart_at = now + self._pause
        reason = SILENT if self._killed_for_silence else EXIT
        return Exit(running.process.exitcode, reason, self._killed_in_startup, self._pause)

    def stop(self, command: Command) -> None:
        """Tell the process to stop; one that is still starting is killed. Every call but the first is ignored."""
        if self._told_to_stop or self._running is None:
            return
        self._told_to_stop = True
        if self._running.report is None:
            self._killed_in_startup = True
            self._running.process.kill()
        else:
            self._running.tell(command)

    def reload(self) -> None:
        """Tell the process to scan the repository; one that is still starting does so anyway."""
        if self._running is not None:
            self._running.tell(Command.RELOAD)

    def kill(self) -> None:
        """Kill the process and wait until it has exited."""
        if self._running is not None:
            self._running.process.kill()
            self._running.process.join()
