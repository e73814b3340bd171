"""The processors that the job may use, from its affinity and the quotas of its cgroups, and how OpenMP waits."""

import os
from pathlib import Path

import pytest

from training import processors


def cgroups(folder: Path, own: str, files: dict[str, str]) -> tuple[Path, Path]:
    """A cgroup file system with these files, and /proc/self/cgroup."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    (folder / "self").write_text(own)
    return folder, folder / "self"


@pytest.mark.parametrize(
    ("own", "files", "quota"),
    [
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 1.5),
        ("0::/a/b\n", {"a/cpu.max": "50000 100000\n", "a/b/cpu.max": "max 100000\n"}, 0.5),
        ("0::/not/in/this/container\n", {"cpu.max": "25000 100000\n"}, 0.25),
        ("3:cpu,cpuacct:/\n", {"cpu/cpu.cfs_quota_us": "200000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 2.0),
        ("3:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ("0::/\n", {"cpu.max": "max 100000\n"}, None),
        ("0::/\n", {"cpu.max": "unreadable\n"}, None),
        ("", {}, None),
    ],
)
def test_the_quota_is_the_smallest_of_the_own_group_and_those_above(
    tmp_path: Path, own: str, files: dict[str, str], quota: float | None
) -> None:
    assert processors.cgroup_quota(*cgroups(tmp_path, own, files)) == quota


def test_a_machine_without_cgroups_has_no_quota(tmp_path: Path) -> None:
    assert processors.cgroup_quota(tmp_path, tmp_path / "missing") is None


@pytest.mark.parametrize(("quota", "expected"), [(0.25, 1), (1.9, 1), (64.0, None), (None, None)])
def test_a_quota_below_the_affinity_decides(
    monkeypatch: pytest.MonkeyPatch, quota: float | None, expected: int | None
) -> None:
    monkeypatch.setattr(processors, "cgroup_quota", lambda: quota)
    assert processors.available_processors() == (expected or len(os.sched_getaffinity(0)))


def test_the_job_spins_little_unless_the_user_set_how_threads_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    environment: dict[str, str] = {}
    monkeypatch.setattr(os, "environ", environment)
    processors.wait_passively()
    assert environment == {"GOMP_SPINCOUNT": "1000"}
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        environment.clear()
        environment[name] = "mine"
        processors.wait_passively()
        assert environment == {name: "mine"}
