"""The processors that this process may use, and how OpenMP's threads wait for each other.

PyTorch divides a step among OpenMP threads. Beside a busy process, or under a quota of processor time, a thread that
waits by spinning takes the time of the thread that it waits for.

Not here: what a processor computes in (trainer/device.py). Nothing here imports PyTorch, which reads OpenMP's variables
once, as it is imported.
"""

import os
from pathlib import Path

# Iterations that GNU OpenMP spins before a thread sleeps; its own default takes milliseconds. The measurements are in
# tests/benchmarks/README.md.
SPIN_COUNT = "1000"
CGROUPS = Path("/sys/fs/cgroup")


def wait_passively() -> None:
    """Let OpenMP's threads sleep soon instead of spinning, unless the user set how they wait.

    Call it before PyTorch is imported.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)


def available_processors() -> int:
    """Processors that this process can keep busy: those of its CPU affinity, or fewer if a cgroup's quota is less."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cgroup_quota()
    return affinity if quota is None else max(1, min(affinity, int(quota)))


def cgroup_quota(cgroups: Path = CGROUPS, own: Path = Path("/proc/self/cgroup")) -> float | None:
    """The smallest quota, in processors, of this process's cgroup and those above it; None without one.

    Source: https://docs.kernel.org/admin-guide/cgroup-v2.html#cpu-interface-files, and version 1's cpu.cfs_quota_us.
    """
    quotas = []
    for hierarchy, path in _groups(own):
        folder = cgroups / hierarchy / path
        for group in (folder, *folder.parents):
            if (quota := _quota(group)) is not None:
                quotas.append(quota)
            if group == cgroups / hierarchy:
                break
    return min(quotas, default=None)


def _groups(own: Path) -> list[tuple[str, str]]:
    """The process's groups as (folder of the hierarchy, path in it); inside a container the path may not exist."""
    try:
        lines = [line.split(":", 2) for line in own.read_text().splitlines()]
    except OSError:
        return []
    return [
        ("" if number == "0" else "cpu", path.lstrip("/"))
        for number, controllers, path in (line for line in lines if len(line) == 3)
        if number == "0" or "cpu" in controllers.split(",")
    ]


def _quota(group: Path) -> float | None:
    """The quota of one group, in processors: version 2's cpu.max, `QUOTA PERIOD` or `max PERIOD`, or version 1's."""
    try:
        if (group / "cpu.max").exists():
            quota, period = (group / "cpu.max").read_text().split()
        else:
            quota, period = ((group / f"cpu.cfs_{name}_us").read_text().strip() for name in ("quota", "period"))
        return None if quota in ("max", "-1") else int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None
