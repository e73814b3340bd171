"""Whether the images fit into memory, which is known before the first file is read.

Not here: the memory that decoding takes (reading.py).
"""

import contextlib
import math
from pathlib import Path

from training.errors import DataError

# The images are held this often: as they were read, then as splits, of which the training split is divided again.
COPIES = 3
MEMINFO = Path("/proc/meminfo")
# The limit of a container, and what it uses: version 2 of Linux's control groups, and version 1.
LIMITS = (
    (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")),
    (Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"), Path("/sys/fs/cgroup/memory/memory.usage_in_bytes")),
)


def check_memory(pictures: int, image_shape: tuple[int, int, int]) -> str:
    """What the images of this number of pictures will take, in words.

    Raises:
        DataError: it is more than is available.
    """
    needed, available = COPIES * pictures * math.prod(image_shape), available_memory()
    shape = " × ".join(map(str, image_shape))
    text = f"{pictures:,} pictures as images of {shape} take up to {size(needed)} of memory"
    if available is None:
        return text
    if needed > available:
        raise DataError(
            f"{text}, and {size(available)} are available; use fewer pictures, a network of smaller images "
            "(--list), or a machine or container with more memory"
        )
    return f"{text}; {size(available)} are available"


def available_memory() -> int | None:
    """Bytes that this process can still get, of the machine and of its container; None if nothing says so."""
    found = []
    with contextlib.suppress(OSError, ValueError, StopIteration):
        line = next(line for line in MEMINFO.read_text().splitlines() if line.startswith("MemAvailable:"))
        found.append(int(line.split()[1]) * 1024)
    for limit, used in LIMITS:
        with contextlib.suppress(OSError, ValueError):  # no such group, or "max"
            found.append(max(0, int(limit.read_text()) - int(used.read_text())))
    return min(found) if found else None


def size(count: int) -> str:
    """A number of bytes, in MiB or GiB."""
    return f"{count / 2**30:,.1f} GiB" if count >= 2**30 else f"{count / 2**20:,.1f} MiB"
