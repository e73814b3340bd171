"""Whether memory is short: of this process's cgroup (a container's) or, without a limit there, of the machine.

Owns giving freed memory back too, without which it would stay short. Not here: what to do about it (receiving.py).
"""

import ctypes
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
NO_LIMIT = 2**60  # kernels write a number near 2**63 for none
# By version of cgroups: the files of use and limit, and the keys of the file cache, which the kernel reclaims.
VERSIONS = (
    ("", "memory.current", "memory.max", ("inactive_file", "active_file")),
    ("memory", "memory.usage_in_bytes", "memory.limit_in_bytes", ("total_inactive_file", "total_active_file")),
)


class Memory:
    """The memory that this process may use, and how much of it is in use."""

    def __init__(self, process: Path = Path("/proc/self/cgroup"), cgroups: Path = CGROUPS) -> None:
        self._cgroup: tuple[Path, str, tuple[str, str]] | None = None
        self._limit = NO_LIMIT
        for controller, use, limit, cache in VERSIONS:
            for folder in _folders(process, cgroups, controller):
                number = _number(folder / limit)
                if (folder / use).exists() and 0 < number < self._limit:
                    self._limit, self._cgroup = number, (folder, use, cache)

    def used(self) -> tuple[int, int]:
        """Bytes in use, without what the kernel reclaims, and the limit; zeros if neither is known."""
        if self._cgroup is None:
            machine = _numbers(Path("/proc/meminfo"))
            total = machine.get("MemTotal:", 0)
            return 1024 * (total - machine.get("MemAvailable:", total)), 1024 * total
        folder, use, cache = self._cgroup
        statistics = _numbers(folder / "memory.stat")
        return _number(folder / use) - sum(statistics.get(key, 0) for key in cache), self._limit


def give_back() -> None:
    """Give freed memory back to the kernel, where the C library is glibc, which keeps it. Takes milliseconds."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _folders(process: Path, cgroups: Path, controller: str) -> list[Path]:
    """The folders of the process's cgroup and those above it: in a container, the mounted one is its own."""
    try:
        lines = process.read_text().splitlines()
    except OSError:  # not Linux
        return []
    folders = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            folder = cgroups / controller / path.lstrip("/")
            folders += [folder, *(parent for parent in folder.parents if parent.is_relative_to(cgroups / controller))]
    return folders


def _number(path: Path) -> int:
    """The number in a file; 0 if there is none."""
    try:
        text = path.read_text().strip()
    except OSError:
        return 0
    return int(text) if text.isdecimal() else 0


def _numbers(path: Path) -> dict[str, int]:
    """Names and numbers of a file with one on each line."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return {}
    return {fields[0]: int(fields[1]) for fields in map(str.split, lines) if len(fields) > 1}
