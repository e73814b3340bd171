"""Ctrl-C and SIGTERM: while it trains, the first lets it come to where it can go on; else they end the job."""

import signal
from types import FrameType


class Signals:
    """Handles both from now on. As a context it is asked, by a call, whether to stop; a second signal ends at once."""

    def __init__(self) -> None:
        self.number = 0  # of the last one
        self._heeded = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._handle)

    def __enter__(self) -> "Signals":
        self._heeded = True
        return self

    def __exit__(self, *_: object) -> None:
        self._heeded = False

    def __call__(self) -> bool:
        return bool(self.number)

    def _handle(self, number: int, _: FrameType | None) -> None:
        again, self.number = self.number, number
        if again or not self._heeded:
            raise KeyboardInterrupt
