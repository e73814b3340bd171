"""Waiting for what another thread or process does."""

import time
from collections.abc import Callable

WAIT = 30.0  # seconds after which something that should happen never will


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Wait for something that another thread or process does."""
    limit = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < limit, f"never happened: {what}"
        time.sleep(0.005)
