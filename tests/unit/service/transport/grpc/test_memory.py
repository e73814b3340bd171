"""Whether memory is short, by the files of both versions of cgroups."""

from pathlib import Path

import psutil
import pytest

from service.transport.grpc.memory import Memory

MIB = 2**20
FILES = {
    "": ("0::/app", "memory.current", "memory.max", "active_file"),
    "memory": ("4:memory:/app", "memory.usage_in_bytes", "memory.limit_in_bytes", "total_active_file"),
}


class Cgroup:
    """The files of a process's cgroup."""

    def __init__(self, root: Path, version: str, folder: str) -> None:
        line, self._use, limit, self._cache = FILES[version]
        self.process, self.root = root / "cgroup", root / "fs"
        self._folder = self.root / version / folder
        self._folder.mkdir(parents=True)
        self.process.write_text(f"7:cpu:/app\n{line}\n")
        (self._folder / limit).write_text(f"{1024 * MIB}\n")

    def use(self, mebibytes: int, *, cache: int = 0) -> None:
        (self._folder / self._use).write_text(f"{mebibytes * MIB}\n")
        (self._folder / "memory.stat").write_text(f"anon 1\n{self._cache} {cache * MIB}\n")


# In a container the mounted folder is the container's own, whatever path /proc names.
@pytest.mark.parametrize("folder", ["app", ""])
@pytest.mark.parametrize("version", FILES)
def test_a_containers_memory_is_that_of_its_cgroup_without_the_file_cache(
    tmp_path: Path, version: str, folder: str
) -> None:
    cgroup = Cgroup(tmp_path, version, folder)
    cgroup.use(1000, cache=400)
    assert Memory(cgroup.process, cgroup.root).used() == (600 * MIB, 1024 * MIB)


def test_without_a_limit_the_machines_memory_counts(tmp_path: Path) -> None:
    used, limit = Memory(tmp_path / "absent", tmp_path).used()
    assert 0 < used < limit == psutil.virtual_memory().total
