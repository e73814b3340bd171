"""Envoy's life: start, hand over what changes, drain, stop.

On SIGTERM clients are told to reconnect elsewhere (GOAWAY), and Envoy stops once they have left or after
EDGE_DRAIN_SECONDS. A second signal ends the wait. On SIGHUP the YAML files are filled in anew; Envoy gets them if it
accepts them, and serves on. Changes of the certificate are noticed by themselves.
"""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import FrameType

from .certificate import Certificate
from .configuration import concurrency, render, validate
from .errors import WrongSetting
from .health import request
from .settings import Settings

WATCH_SECONDS = 1.0  # between looks at the certificate's files
LAST_SECONDS = 6.0  # for clients to leave once no more are accepted; more than listener.yaml's drain_timeout
EXIT_SECONDS = 5.0  # that Envoy has to exit


class Edge:
    """Envoy, its configuration and its end."""

    def __init__(self, settings: Settings, envoy: str, folder: Path) -> None:
        self._settings = settings
        self._envoy = envoy
        self._folder = folder
        mutual = bool(settings.client_certificates)
        self._certificate = Certificate(Path(settings.tls_folder), mutual=mutual) if settings.tls_folder else None
        self._stop = self._reload = False

    def run(self) -> int:
        """Run Envoy until it exits or a signal stops it. Returns the exit status. Raises WrongSetting."""
        signal.signal(signal.SIGTERM, self._on_stop)  # first: process 1 of a container gets no signal without a handler
        signal.signal(signal.SIGINT, self._on_stop)
        signal.signal(signal.SIGHUP, self._on_reload)
        self.configure()
        for warning in self._settings.warnings():
            _log("warning", warning)
        command = [self._envoy, "-c", str(self._folder / "envoy.yaml"), "-l", "warn", "--disable-hot-restart"]
        # While draining, every answer tells its client to leave, not a growing share of them.
        command += ["--drain-strategy", "immediate", "--drain-time-s", str(math.ceil(self._settings.drain_seconds))]
        command += ["--file-flush-interval-msec", "1000"]  # of the access log; Envoy's own is 10 s
        self._process = subprocess.Popen([*command, "--concurrency", str(concurrency())], start_new_session=True)
        _log("info", "started", port=self._settings.port, tls=self._tls, upstream=self._settings.upstream)
        while not self._stop and self._process.poll() is None:
            self._look()
            self._wait(WATCH_SECONDS)
        if self._process.poll() is not None:
            _log("error", "Envoy exited", status=self._process.returncode)
            return self._process.returncode or 1
        self._drain()
        return 0

    @property
    def _tls(self) -> str:
        return "no" if not self._certificate else "mutual" if self._settings.client_certificates else "yes"

    def configure(self) -> None:
        """Fill in the configuration, and hand it over if Envoy accepts it; else change nothing. Raises WrongSetting."""
        with tempfile.TemporaryDirectory() as folder:
            self._write(Path(folder))
            validate(self._envoy, Path(folder))
        self._write(self._folder)

    def _write(self, output: Path) -> None:
        if self._certificate:
            self._certificate.changed()  # from now on
            self._certificate.write(output)
        render(self._settings, output)

    def _look(self) -> None:
        """Hand over what has changed, if it is right."""
        try:
            if self._reload:
                self._reload = False
                self.configure()
                _log("info", "configuration reloaded")
            elif self._certificate and self._certificate.changed():
                self._certificate.write(self._folder)
                _log("info", "certificate reloaded")
        except (WrongSetting, OSError) as error:  # OSError: no room for the new files, for one
            _log("error", "change refused, keeping what was", reason=str(error))

    def _drain(self) -> None:
        """Let clients leave, then stop Envoy."""
        self._stop = self._reload = False  # a second signal ends the waits
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        _log("info", "draining", seconds=self._settings.drain_seconds)
        try:
            self._admin("POST", "/healthcheck/fail")
            self._admin("POST", "/drain_listeners?graceful&skip_exit")
            self._await_departures(self._settings.drain_seconds)
            # Clients may come back at once: refuse them from here on, and tell those that came to leave again.
            self._admin("POST", "/drain_listeners")
            self._await_departures(LAST_SECONDS)
        except OSError as error:
            _log("error", "Envoy does not answer", reason=str(error))
        self._process.terminate()
        try:
            self._process.wait(EXIT_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
        _log("info", "stopped")

    def _await_departures(self, seconds: float) -> None:
        """Wait until no client is connected."""
        limit = time.monotonic() + seconds
        while not self._stop and time.monotonic() < limit and self._connections():
            self._wait(0.2)

    def _connections(self) -> int:
        """Open connections of clients."""
        text = self._admin("GET", "/stats?filter=^http.public.downstream_cx_active$")
        return int(text.rpartition(":")[2] or 0)

    def _admin(self, method: str, path: str) -> str:
        return request(method, f"http://127.0.0.1:{self._settings.admin_port}{path}")

    def _wait(self, seconds: float) -> None:
        """Sleep, or less if Envoy exits or a signal comes."""
        until = time.monotonic() + seconds
        while not (self._stop or self._reload) and self._process.poll() is None and time.monotonic() < until:
            time.sleep(0.05)

    def _on_stop(self, _number: int, _frame: FrameType | None) -> None:
        self._stop = True

    def _on_reload(self, _number: int, _frame: FrameType | None) -> None:
        self._reload = True


def _log(level: str, event: str, **facts: object) -> None:
    line = {"time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "level": level, "event": event, **facts}
    print(json.dumps(line), file=sys.stderr, flush=True)
