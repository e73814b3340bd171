"""Waiting for a condition that another thread or process fulfils."""

import time
from collections.abc import Callable

WAIT = 30.0  # timeout of every wait, in seconds


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Wait until the condition is true; fail after WAIT seconds, naming `what`."""
    limit = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < limit, f"never happened: {what}"
        time.sleep(0.005)
