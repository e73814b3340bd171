"""Keeps the responses of several engines in the order in which their batches were formed (`preserve_ordering`)."""

import threading


class Sequencer:
    """Releases batches in the order of their tickets, which count from 0."""

    def __init__(self) -> None:
        self._issued = 0
        self._next = 0
        self._advanced = threading.Condition()

    def ticket(self) -> int:
        """The next ticket. Call it in the order in which batches are formed."""
        self._issued += 1
        return self._issued - 1

    def wait(self, ticket: int) -> None:
        """Block until every earlier ticket is done."""
        with self._advanced:
            self._advanced.wait_for(lambda: self._next == ticket)

    def done(self) -> None:
        """Release the next ticket, after the current batch has been answered."""
        with self._advanced:
            self._next += 1
            self._advanced.notify_all()
