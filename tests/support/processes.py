"""The service and the commands as processes."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.paths import ROOT
from tests.support.waiting import WAIT, wait_until

RUNS = Path(tempfile.gettempdir()) / f"simplecnn-test-runs-{os.getpid()}"


class ServiceProcess:
    """`python -m service` as a user runs it, on free ports; its log lines are in `events`.

    Waits until it is ready, until its first scan is done (`ready` false), or until the log has the event `until`.
    """

    def __init__(self, repository: Path, *flags: str, ready: bool = True, until: str = "") -> None:
        command = [sys.executable, "-m", "service", "--model-repository", str(repository), "--log-format", "json"]
        # Of a flag that occurs twice, the last value counts.
        command += ["--grpc-port", "0", "--metrics-port", "0", "--lame-duck-seconds", "0", *flags]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=clean_environment())
        self.events: list[dict[str, Any]] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        try:
            started = (until, "metrics listening")
            wait_until(lambda: self._settled or all(map(self.has, started)), "the service has started")
            assert until or not ready or self.has("ready"), self.events
        except BaseException:
            self.process.kill()  # the caller gets no object to stop
            self.wait()
            raise
        self.address = str(self.event("listening")["address"]) if self.has("listening") else ""
        self.metrics = str(self.event("metrics listening")["url"])

    @property
    def _settled(self) -> bool:
        return self.has("ready") or self.has("not ready") or self.process.poll() is not None

    def has(self, event: str) -> bool:
        """Whether the log has a line with that event."""
        return any(line["event"] == event for line in self.events)

    def count(self, event: str) -> int:
        """The number of lines of the log with that event."""
        return sum(line["event"] == event for line in self.events)

    def event(self, name: str) -> dict[str, Any]:
        """The first line of the log with that event."""
        return next(line for line in self.events if line["event"] == name)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send the signal, wait for the exit and return the exit status."""
        self.process.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        """Wait for the exit and return the exit status; `events` is complete then."""
        status = self.process.wait(WAIT)
        self._reader.join(WAIT)
        assert self.process.stderr is not None
        self.process.stderr.close()
        return status

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.events.append(json.loads(line) if line.startswith("{") else {"event": line.rstrip()})


@contextmanager
def service_process(repository: Path, *flags: str, ready: bool = True, until: str = "") -> Iterator[ServiceProcess]:
    """A ServiceProcess that is killed at the end."""
    service = ServiceProcess(repository, *flags, ready=ready, until=until)
    try:
        yield service
    finally:
        service.process.kill()
        service.wait()


def run_command(*arguments: str, timeout: float = 240.0) -> subprocess.CompletedProcess[str]:
    """Run `python -m …` as a user does; returns its exit status and output."""
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=ROOT,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def clean_environment() -> dict[str, str]:
    """This process's environment without SERVICE_ and TRAINING_ settings; training runs go outside the checkout."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("SERVICE_", "TRAINING_"))}
    return kept | {"TRAINING_RUNS_DIR": str(RUNS)}


def free_port() -> int:
    """A free port of the loopback interface."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port
