"""Keeps the responses of several engines in the order in which their batches were formed (`preserve_ordering`)."""

import contextlib
import threading
from collections.abc import Callable, Iterator


class Sequencer:
    """Lets batches answer in the order of their numbers, which count from 0 without a gap."""

    def __init__(self) -> None:
        self._next = 0
        self._advanced = threading.Condition()

    @contextlib.contextmanager
    def turn(self, number: int) -> Iterator[Callable[[], None]]:
        """The time in which a batch runs. Yields a function that blocks until every earlier batch has been answered."""
        try:
            yield lambda: self._wait(number)
        finally:
            self._wait(number)
            with self._advanced:
                self._next += 1
                self._advanced.notify_all()

    def _wait(self, number: int) -> None:
        with self._advanced:
            self._advanced.wait_for(lambda: self._next == number)
