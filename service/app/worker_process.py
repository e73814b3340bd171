"""A worker as it runs: a whole service that reports to its supervisor and obeys it.

Owns the reports, the commands, and what a worker does when its supervisor is gone. Reports have a thread of their own:
a supervisor that does not read blocks that thread alone. Not here: serving (server.py, process.py), the supervisor's
view of a worker (worker.py).
"""

import contextlib
import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from multiprocessing.connection import Connection
from pathlib import Path

import structlog
from prometheus_client.registry import CollectorRegistry

from service.app import process
from service.app.server import Server
from service.app.settings import Settings
from service.core import logs
from service.core.lifecycle import Phase
from service.telemetry.merge import Family, families

log = structlog.get_logger(__name__)

REPORT_SECONDS = 1.0
# A report costs time that grows with the number of models. So after a report that took a second the next one waits for
# RELATIVE_PAUSE seconds, but for MAX_PAUSE_SECONDS at the most: the supervisor ends a worker that is silent for longer.
RELATIVE_PAUSE, MAX_PAUSE_SECONDS = 20.0, 4.0
# Seconds that the last report may take.
LAST_REPORT_SECONDS = 2.0


class Command(StrEnum):
    """What a supervisor tells a worker."""

    RELOAD = "reload"
    STOP = "stop"
    STOP_HURRIED = "stop hurried"  # without a lame duck


@dataclass(frozen=True)
class Report:
    """What a worker tells its supervisor."""

    phase: Phase
    unready_reason: str
    metrics: Sequence[Family] | None  # None if they could not be collected


def run_worker(settings: Settings, index: int, pipe: Connection, socket_folder: Path) -> None:
    """Serve until the supervisor says to stop, and exit."""
    signal.signal(signal.SIGUSR1, signal.SIG_DFL)  # forkserver.py handles it
    signal_on_death_of_parent(signal.SIGKILL)
    os.setsid()  # Ctrl-C in a terminal goes to the supervisor alone, which then stops the workers
    logs.configure(settings.log_format, worker=index)
    supervisor = SupervisorLink(pipe, socket_folder)
    status = process.serve(settings, attach=supervisor.attach, socket_folder=socket_folder)
    supervisor.detach()
    process.leave(status)


def signal_on_death_of_parent(number: signal.Signals) -> None:
    """Let the kernel send this process a signal when its parent ends; Linux only."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, int(number))  # 1 is PR_SET_PDEATHSIG of <linux/prctl.h>


class SupervisorLink:
    """A worker's end of the pipe."""

    def __init__(self, pipe: Connection, socket_folder: Path) -> None:
        self._pipe = pipe
        self._socket_folder = socket_folder
        self._server: Server | None = None
        self._due = threading.Event()  # the next report is due now
        self._last = threading.Event()  # the next report is the last one
        self._gone = False  # the supervisor has exited
        self._reporter: threading.Thread | None = None
        threading.Thread(target=self._obey, name="commands", daemon=True).start()

    def attach(self, server: Server, metrics: CollectorRegistry) -> Callable[[], None]:
        """Report the server's state and metrics from now on. Returns what makes a report due at once."""
        self._server = server
        self._reporter = threading.Thread(target=self._report, args=(server, metrics), name="reports", daemon=True)
        self._reporter.start()
        return self._due.set

    def detach(self) -> None:
        """Send the last report, which has the counts of all calls."""
        self._last.set()
        self._due.set()
        if self._reporter:
            self._reporter.join(LAST_REPORT_SECONDS)
        self._remove_folder()

    def _report(self, server: Server, metrics: CollectorRegistry) -> None:
        """Report every second and at once when the state changes."""
        while True:
            self._due.clear()
            last = self._last.is_set()
            began = time.monotonic()
            report = Report(server.lifecycle.phase, server.unready_reason(), _collected(metrics))
            took = time.monotonic() - began
            try:
                self._pipe.send(report)
            except OSError:  # the supervisor is gone: _obey finds that out too
                return
            if last:
                return
            self._last.wait(min(RELATIVE_PAUSE * took, MAX_PAUSE_SECONDS))
            self._due.wait(REPORT_SECONDS)

    def _obey(self) -> None:
        """Obey the supervisor; stop when it has exited."""
        try:
            while True:
                self._run(self._pipe.recv())
        except (EOFError, OSError):
            self._gone = True
            log.error("supervisor gone, stopping")
            self._run(Command.STOP_HURRIED)

    def _run(self, command: Command) -> None:
        if self._server is None:  # it has not begun to load either
            if command is not Command.RELOAD:
                self._remove_folder()
                os._exit(0)
        elif command is Command.RELOAD:
            self._server.request_scan()
        else:
            self._server.request_stop(hurry=command is Command.STOP_HURRIED)

    def _remove_folder(self) -> None:
        """Remove the folder of the sockets in place of a supervisor that is gone; the last worker finds it empty."""
        if self._gone:
            with contextlib.suppress(OSError):
                self._socket_folder.rmdir()


def _collected(metrics: CollectorRegistry) -> list[Family] | None:
    """The metrics; None if there is an error, which is logged: a worker that cannot count still reports its state."""
    try:
        return families(metrics.collect())
    except Exception:
        log.exception("metrics not collected")
        return None
