"""The state of the service's process: starting, ready, lame duck, draining, stopped.

Owns the one state that the gRPC servers, the health service, the handlers and the probes read. It only moves forward.
Not here: what moves it (app/server.py), whether models answer (models/registry.py).
"""

import threading
from enum import IntEnum
from typing import NoReturn

from service.core.errors import Draining


class Phase(IntEnum):
    """The phases, in their order."""

    STARTING = 0  # the first scan of the repository is not done
    READY = 1
    LAME_DUCK = 2  # reports NOT_SERVING, and serves
    DRAINING = 3  # refuses new calls, and answers pending ones
    STOPPED = 4


class Lifecycle:
    """The state; any thread may read it or move it forward."""

    def __init__(self) -> None:
        self.phase = Phase.STARTING
        self.accepts_calls = True  # False from DRAINING on; an attribute, because every call reads it
        self.last_refused_at = 0.0  # time.monotonic() of the last call that `refuse` refused
        self._lock = threading.Lock()

    @property
    def stopping(self) -> bool:
        """Whether the process is about to end: it is a lame duck, draining or stopped."""
        return self.phase >= Phase.LAME_DUCK

    @property
    def unready_reason(self) -> str:
        """Why the process is not ready whatever its models are; "" if it is."""
        if self.phase is Phase.STARTING:
            return "models are still loading"
        return "draining" if self.stopping else ""

    def advance(self, phase: Phase) -> None:
        """Enter the phase; nothing happens if the state is there or beyond."""
        with self._lock:
            self.phase = max(self.phase, phase)
            self.accepts_calls = self.phase < Phase.DRAINING

    def refuse(self, now: float) -> NoReturn:
        """Refuse a call that arrived at `now`. Raises Draining."""
        self.last_refused_at = now
        raise Draining
