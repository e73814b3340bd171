"""The edge as a process, on free ports of loopback."""

import os
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.paths import ROOT
from tests.support.processes import free_port
from tests.support.waiting import WAIT, wait_until


@dataclass(frozen=True)
class EdgeProcess:
    """A running `python -m deploy.edge`; `log` is the file of its output."""

    process: subprocess.Popen[bytes]
    port: int
    operators_port: int
    log: Path
    environment: dict[str, str]

    @property
    def address(self) -> str:
        """Host and port for clients. A certificate is for the name localhost."""
        return f"localhost:{self.port}" if self.environment.get("EDGE_TLS_FOLDER") else f"127.0.0.1:{self.port}"

    def ready(self) -> bool:
        """Whether it is live, and has found a healthy replica."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.operators_port}/readyz", timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def health(self) -> str:
        """What the container's health check prints."""
        command = [sys.executable, "-m", "deploy.edge", "health"]
        done = subprocess.run(command, cwd=ROOT, env=self.environment, capture_output=True, text=True, check=False)
        return done.stdout.strip()


def edge_environment(upstream: str, **settings: str) -> dict[str, str]:
    """The environment of an edge on free ports; `settings` are more variables, without EDGE_ and in lower case."""
    ports = {name: str(free_port()) for name in ("port", "operators_port", "admin_port")}
    values = {"upstream": upstream, "host": "127.0.0.1", **ports, **settings}
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # the environment has Envoy
    return {**os.environ, "PATH": path} | {f"EDGE_{name.upper()}": value for name, value in values.items()}


def copy_of_edge(root: Path) -> Path:
    """Copy deploy/edge below `root`, for a test that changes its files; returns the copy."""
    copy = root / "deploy" / "edge"
    shutil.copytree(ROOT / "deploy" / "edge", copy)
    return copy


@contextmanager
def edge_process(
    upstream: str, folder: Path, *, ready: bool = True, root: Path = ROOT, **settings: str
) -> Iterator[EdgeProcess]:
    """An edge before the service at `upstream`; with `ready` it has found that healthy. Stopped at the end.

    `root` holds deploy/edge; see copy_of_edge.
    """
    environment = edge_environment(upstream, **settings)
    log = folder / "edge.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "deploy.edge"], cwd=root, env=environment, stdout=output, stderr=output
        )
    edge = EdgeProcess(
        process, int(environment["EDGE_PORT"]), int(environment["EDGE_OPERATORS_PORT"]), log, environment
    )
    try:
        if ready:
            wait_until(lambda: edge.ready() or process.poll() is not None, "the edge is ready")
            assert process.poll() is None, log.read_text()
        yield edge
    finally:
        process.terminate()
        try:
            process.wait(WAIT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(WAIT)


def change_livez(folder: Path) -> None:
    """Change what /livez answers, in a copy of deploy/edge: an edge that has taken the change says "changed"."""
    listener = folder / "listener.yaml"
    listener.write_text(listener.read_text().replace('"live\\n"', '"changed\\n"'))
