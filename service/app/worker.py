"""A worker: one of several processes that serve on one port, as the supervisor sees it and as it runs.

Owns the process, its control pipe, and the signals sent to it. Not here: when a worker is started and restarted
(supervisor.py), serving (server.py).
"""

import contextlib
import itertools
import multiprocessing
import multiprocessing.process
import multiprocessing.synchronize
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection

import structlog
from prometheus_client.registry import CollectorRegistry

from service.app import server
from service.app.settings import Settings
from service.core import logs
from service.telemetry.merge import families

log = structlog.get_logger(__name__)

# Seconds in which a worker must answer a question of the supervisor.
ANSWER_TIMEOUT_SECONDS = 2.0
# A worker that exits within SHORT_LIFE_SECONDS is restarted after a pause, which doubles up to the maximum.
SHORT_LIFE_SECONDS, FIRST_PAUSE_SECONDS, MAX_PAUSE_SECONDS = 30.0, 0.25, 30.0

METRICS, READY = "metrics", "ready"  # the supervisor's questions


@dataclass(frozen=True)
class WorkerProcess:
    """A process, its control pipe, and the event that it sets once it handles signals."""

    process: multiprocessing.process.BaseProcess
    pipe: Connection
    handles_signals: multiprocessing.synchronize.Event
    started: float


class Worker:
    """One of the service's workers: its current process, and when to start the next one."""

    def __init__(self, index: int, start: Callable[[int], WorkerProcess]) -> None:
        self.index = index
        self.restart_at = 0.0
        self.killed_in_startup = False
        self._start = start
        self._running: WorkerProcess | None = None
        self._pause = FIRST_PAUSE_SECONDS
        self._stopping = False
        self._asking = threading.Lock()
        self._questions = itertools.count()

    @property
    def sentinel(self) -> int | None:
        """A handle that becomes readable when the process exits; None without a process."""
        return None if self._running is None else self._running.process.sentinel

    def start(self) -> None:
        """Start a process."""
        self._running = self._start(self.index)
        self._stopping = False

    def exit_status(self) -> int | None:
        """The exit status of the process, negative for a signal; None while it runs."""
        return None if self._running is None else self._running.process.exitcode

    def forget(self) -> float:
        """Forget the process that exited. Returns the seconds to wait before the next start."""
        with self._asking:
            assert self._running is not None
            lived = time.monotonic() - self._running.started
            self._running.pipe.close()
            self._running = None
        short = lived <= SHORT_LIFE_SECONDS
        self._pause = min(2 * self._pause, MAX_PAUSE_SECONDS) if short else FIRST_PAUSE_SECONDS
        self.restart_at = time.monotonic() + self._pause
        return self._pause

    def ask(self, question: str) -> object:
        """The process's answer; None if it does not answer in time."""
        with self._asking:
            if self._running is None:
                return None
            pipe, number = self._running.pipe, next(self._questions)
            with contextlib.suppress(OSError, EOFError):
                pipe.send((number, question))
                limit = time.monotonic() + ANSWER_TIMEOUT_SECONDS
                while pipe.poll(max(0.0, limit - time.monotonic())):
                    answered, answer = pipe.recv()
                    if answered == number:  # else a late answer to an earlier question
                        return answer
            return None

    def stop(self, number: signal.Signals) -> None:
        """Signal the process to stop, but only once: a second signal would end it at once.

        A process that is still starting is killed.
        """
        if self._stopping or self._running is None:
            return
        self._stopping = True
        if self._running.handles_signals.is_set():
            self.signal(number)
        else:
            self.killed_in_startup = True
            self._running.process.kill()

    def signal(self, number: signal.Signals) -> None:
        """Send the process a signal."""
        running = self._running
        if running is not None and running.process.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(running.process.pid, number)

    def kill(self) -> None:
        """Kill the process and wait until it has exited."""
        if self._running is not None:
            self._running.process.kill()
            self._running.process.join()


# --- in the worker process ---


def run_worker(
    settings: Settings, index: int, pipe: Connection, handles_signals: multiprocessing.synchronize.Event
) -> None:
    """Serve until a signal to stop, and exit."""
    os.setsid()  # Ctrl-C in a terminal goes to the supervisor alone, which then stops the workers
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until the server handles it; a start loads everything anyway
    logs.configure(settings.log_format, worker=index)

    def report(registry: CollectorRegistry, unready_reason: Callable[[], str]) -> None:
        threading.Thread(target=_answer, args=(pipe, registry, unready_reason), name="report", daemon=True).start()
        handles_signals.set()

    sys.exit(server.serve(settings, report=report))


def _answer(pipe: Connection, registry: CollectorRegistry, unready_reason: Callable[[], str]) -> None:
    """Answer the supervisor's questions; stop the worker when the supervisor has exited."""
    try:
        while True:
            number, question = pipe.recv()
            pipe.send((number, unready_reason() if question == READY else families(registry.collect())))
    except (EOFError, OSError):
        log.error("supervisor gone, stopping")
        os.kill(os.getpid(), signal.SIGTERM)
