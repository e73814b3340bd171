"""What is attacked: a service process of its own, or containers that run already.

Owns the highest memory, the restarts and the lines of the log during an attack. Not here: attacks (catalogue.py), load
(__main__.py).
"""

import contextlib
import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import psutil

from tests.support.processes import ServiceProcess

CGROUPS = Path("/sys/fs/cgroup")
SAMPLE_SECONDS = 0.02
DOCKER = shutil.which("docker") or "docker"
NO_LIMIT = 2**50  # an older kernel writes a number near 2**63 for none


@dataclass
class Seen:
    """What an attack did: by part, the highest memory and its limit in bytes; restarts, and lines of the log."""

    peaks: dict[str, int] = field(default_factory=dict)
    limits: dict[str, int] = field(default_factory=dict)
    restarts: int = 0
    lines: int = 0


class Target(Protocol):
    """What is attacked."""

    def watch(self) -> "Watch":
        """Begin to watch an attack."""


class Watch:
    """Samples the memory of parts from its start until `stop`."""

    def __init__(self, parts: Sequence["Part"]) -> None:
        self._parts = parts
        self._began = {part.name: (part.restarts(), part.lines()) for part in parts}
        self._peaks = {part.name: 0 for part in parts}
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def stop(self) -> Seen:
        """What was seen."""
        self._stopped.set()
        self._thread.join()
        seen = Seen(self._peaks, {part.name: part.limit() for part in self._parts})
        for part in self._parts:
            restarts, lines = self._began[part.name]
            seen.restarts += part.restarts() - restarts
            seen.lines += part.lines() - lines
        return seen

    def _sample(self) -> None:
        while not self._stopped.wait(SAMPLE_SECONDS):
            for part in self._parts:
                self._peaks[part.name] = max(self._peaks[part.name], part.memory())


class Part(Protocol):
    """A process or a container."""

    name: str

    def memory(self) -> int:
        """Memory in use, in bytes, without what the kernel can reclaim."""

    def limit(self) -> int:
        """Its limit in bytes; 0 for none."""

    def restarts(self) -> int:
        """How often it was restarted or killed."""

    def lines(self) -> int:
        """Lines of its log."""


class Process:
    """A service that this program starts, in a cgroup with a limit on memory if it may make one."""

    name = "service"

    def __init__(self, repository: Path, flags: Sequence[str], limit: int) -> None:
        self._limit = limit
        self._repository, self._flags = repository, flags
        self._start()
        self._deaths = self._lines = 0

    @property
    def address(self) -> str:
        """host:port."""
        return self.service.address

    def _start(self) -> None:
        with _memory_limit(self._limit) as limited:
            self.service = ServiceProcess(self._repository, *self._flags)
        self._limit *= limited
        self._process = psutil.Process(self.service.process.pid)

    def watch(self) -> Watch:
        """Begin to watch an attack; a service that an earlier attack ended is started again."""
        if self.service.process.poll() is not None:
            self._deaths += 1
            self._start()
        return Watch([self])

    def memory(self) -> int:
        try:
            return int(self._process.memory_info().rss)
        except psutil.NoSuchProcess:
            return 0

    def limit(self) -> int:
        return self._limit

    def stop(self) -> None:
        """Stop the service."""
        self.service.stop()
        with contextlib.suppress(OSError):
            _limited_folder().rmdir()

    def restarts(self) -> int:
        return self._deaths + (self.service.process.poll() is not None)

    def lines(self) -> int:
        return len(self.service.events)


class Container:
    """A container that runs already; its memory and limit are its cgroup's."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._folder = _cgroup(int(self._inspect()["State"]["Pid"]))

    def memory(self) -> int:
        try:
            if (self._folder / "memory.current").exists():
                used, prefix = self._folder / "memory.current", ""
            else:
                used, prefix = self._folder / "memory.usage_in_bytes", "total_"
            statistics = _statistics(self._folder)
            return int(used.read_text()) - statistics[f"{prefix}inactive_file"] - statistics[f"{prefix}active_file"]
        except (OSError, KeyError):  # it is being restarted
            return 0

    def limit(self) -> int:
        limit = int(self._inspect()["HostConfig"]["Memory"])
        return limit if limit < NO_LIMIT else 0

    def restarts(self) -> int:
        return int(self._inspect()["RestartCount"])

    def lines(self) -> int:
        logs = subprocess.run([DOCKER, "logs", self.name], capture_output=True, text=True, check=False)
        return len(logs.stdout.splitlines()) + len(logs.stderr.splitlines())

    def _inspect(self) -> dict[str, Any]:
        done = subprocess.run([DOCKER, "inspect", self.name], capture_output=True, text=True, check=True)
        (found,) = json.loads(done.stdout)
        return dict(found)


class Containers:
    """The containers behind one address."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names

    def watch(self) -> Watch:
        """Begin to watch an attack."""
        return Watch([Container(name) for name in self._names])


@contextlib.contextmanager
def _memory_limit(limit: int) -> Iterator[bool]:
    """Processes that are started inside get a limit on their memory; False if there is none."""
    own = _cgroup(os.getpid())
    folder = _limited_folder()
    name = "memory.limit_in_bytes" if folder.parent.name == "memory" else "memory.max"
    try:
        if not limit:
            raise OSError
        folder.mkdir(exist_ok=True)
        (folder / name).write_text(str(limit))
        (folder / "cgroup.procs").write_text(str(os.getpid()))
    except OSError:
        yield False
        return
    try:
        yield True
    finally:
        (own / "cgroup.procs").write_text(str(os.getpid()))


def _limited_folder() -> Path:
    """The folder of the cgroup that limits the service, in either version of cgroups."""
    memory = CGROUPS / "memory"
    return (memory if memory.is_dir() else CGROUPS) / f"attacks-{os.getpid()}"


def _cgroup(pid: int) -> Path:
    """The folder of a process's memory controller."""
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        number, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            return CGROUPS / "memory" / path.lstrip("/")
        if number == "0":
            unified = CGROUPS / path.lstrip("/")
    return unified


def _statistics(folder: Path) -> dict[str, int]:
    return {key: int(value) for key, value in map(str.split, (folder / "memory.stat").read_text().splitlines())}
