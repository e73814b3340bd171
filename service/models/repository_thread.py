"""The thread that changes the loaded versions: it scans the repository and runs the calls of model control.

Owns the order of the changes, one at a time, and the bound on the calls that wait. A stop waits for no change: `close`
fails the calls, and the process may exit while a change still runs. Not here: the changes themselves (reconciler.py).
"""

import contextlib
import functools
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import NamedTuple

import structlog

from service.core.errors import Draining, TooManyChanges

log = structlog.get_logger(__name__)

# Calls of model control that may wait for the change that runs.
MAX_WAITING_CALLS = 16


class ChangeAbandoned(BaseException):
    """Ends a change that the process does not wait for. A BaseException: to no version is this an error of loading."""


class _Call(NamedTuple):
    change: Callable[[], None]
    outcome: Future[None]


class RepositoryThread(threading.Thread):
    """Scans at its start, every `poll_seconds` (0 for never) and on request; `on_scanned` is called after each scan."""

    def __init__(self, scan: Callable[[], None], *, poll_seconds: float, on_scanned: Callable[[], None]) -> None:
        super().__init__(name="repository", daemon=True)
        self._scan = scan
        self._poll_seconds = poll_seconds
        self._on_scanned = on_scanned
        self._changed = threading.Condition()  # guards what follows
        self._scan_due = True
        self._closed = False
        self._waiting: deque[_Call] = deque()
        self._running: Future[None] | None = None
        self._poll_at = 0.0

    def request_scan(self) -> None:
        """Scan as soon as the change that runs has ended."""
        with self._changed:
            self._scan_due = True
            self._changed.notify()

    def submit(self, change: Callable[[], None]) -> Future[None]:
        """Run a call of model control after those that wait. Cancelling the future drops a call that still waits.

        Raises:
            Draining: the thread is closed.
            TooManyChanges: MAX_WAITING_CALLS calls wait.
        """
        with self._changed:
            if self._closed:
                raise Draining
            self._waiting = deque(call for call in self._waiting if not call.outcome.cancelled())
            if len(self._waiting) >= MAX_WAITING_CALLS:
                raise TooManyChanges(MAX_WAITING_CALLS)
            call = _Call(change, Future())
            self._waiting.append(call)
            self._changed.notify()
            return call.outcome

    def close(self) -> None:
        """Fail every call with Draining and start no other change. Nobody waits for the change that runs."""
        with self._changed:
            self._closed = True
            outcomes = [call.outcome for call in self._waiting]
            for outcome in (*outcomes, *([self._running] if self._running else [])):
                if not outcome.done():
                    outcome.set_exception(Draining())
            self._waiting.clear()
            self._changed.notify()

    def run(self) -> None:
        """Run the changes until `close`."""
        with contextlib.suppress(ChangeAbandoned):
            while change := self._next():
                change()

    def _next(self) -> Callable[[], None] | None:
        """Wait for the next change, a scan before a call; None once the thread is closed."""
        with self._changed:
            while not self._closed:
                if self._scan_due:
                    self._scan_due = False
                    return self._run_scan
                if self._waiting:
                    call = self._waiting.popleft()
                    if call.outcome.set_running_or_notify_cancel():  # else its caller has cancelled it
                        self._running = call.outcome
                        return functools.partial(self._run_call, call)
                elif not self._changed.wait(self._poll_at - time.monotonic() if self._poll_seconds else None):
                    self._scan_due = True
            return None

    def _run_scan(self) -> None:
        try:
            self._scan()
        except Exception:  # what a folder holds must not end the thread
            log.exception("repository scan failed")
        self._poll_at = time.monotonic() + self._poll_seconds
        self._on_scanned()

    def _run_call(self, call: _Call) -> None:
        error: Exception | None = None
        try:
            call.change()
        except Exception as raised:  # noqa: BLE001 # the caller gets it
            error = raised
        with self._changed:
            self._running = None
            if not call.outcome.done():  # else `close` failed it
                call.outcome.set_exception(error) if error else call.outcome.set_result(None)
