"""The lock of a folder: held by the process that trains in it, and released by the kernel however that process ends.

So the table of runs tells a run that trains from one that was killed, and no two processes train in one run folder.
Where the file system has no locks, every run counts as not locked.
"""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from training.errors import TrainingError

# A table of runs that is being read holds the lock for some microseconds.
ATTEMPTS, SECONDS_BETWEEN = 5, 0.05


@contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Hold the lock of a run folder.

    Raises:
        TrainingError: another process holds it.
    """
    with _opened(folder) as handle:
        for attempt in range(1, ATTEMPTS + 1):
            if _lock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB):
                break
            if attempt == ATTEMPTS:
                raise TrainingError(f"another process trains in {folder}; wait for it, or stop it first")
            time.sleep(SECONDS_BETWEEN)
        yield


@contextmanager
def waited_lock(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder, after waiting for it."""
    with _opened(folder) as handle:
        _lock(handle, fcntl.LOCK_EX)
        yield


def is_locked(folder: Path) -> bool:
    """Whether a process holds the lock of a run folder."""
    with _opened(folder) as handle:
        return not _lock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)


@contextmanager
def _opened(folder: Path) -> Iterator[int]:
    handle = os.open(folder, os.O_RDONLY)
    try:
        yield handle
    finally:
        os.close(handle)  # this also unlocks


def _lock(handle: int, operation: int) -> bool:
    """Whether nobody else holds the lock."""
    try:
        fcntl.flock(handle, operation)
    except BlockingIOError:
        return False
    except OSError:  # no locks here
        return True
    return True
