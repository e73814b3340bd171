"""SIGINT (Ctrl-C) and SIGTERM: during training the first one asks for a stop at the next step; otherwise it interrupts.

Training can save a checkpoint before it stops. Data loading, export and publishing have nothing to save.
"""

import signal
from types import FrameType


class SignalHandler:
    """Handles both signals from its creation on; inside `with`, the first one only sets `should_stop()`."""

    def __init__(self) -> None:
        self.signal_number = 0  # of the last signal; 0 if none came
        self._deferring = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._handle)

    def __enter__(self) -> "SignalHandler":
        self._deferring = True
        return self

    def __exit__(self, *_: object) -> None:
        self._deferring = False

    def should_stop(self) -> bool:
        """Whether a signal came."""
        return bool(self.signal_number)

    def _handle(self, number: int, _: FrameType | None) -> None:
        is_second, self.signal_number = bool(self.signal_number), number
        if is_second or not self._deferring:
            raise KeyboardInterrupt
