"""Signals that come before the service handles them: they end nothing that goes on, and leave nothing behind."""

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import service.__main__ as command
from service.app import process, startup, supervisor
from service.core import logs
from service.core.version import COMMIT_VARIABLE
from service.transport.http.monitoring import MonitoringServer
from tests.support.local_service import make_settings

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@pytest.fixture(autouse=True)
def restore_signals() -> Iterator[None]:
    """Restore the handlers; meanwhile a signal that would end the process fails the test instead."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number in SIGNALS:
        signal.signal(number, lambda number, _: pytest.fail(f"signal {number} ended the process"))
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_sighup_does_not_end_a_service_that_has_not_begun_to_load(monkeypatch: pytest.MonkeyPatch) -> None:
    def serve(_: object) -> int:
        os.kill(os.getpid(), signal.SIGHUP)
        return 0

    monkeypatch.setattr(sys, "argv", ["service"])
    monkeypatch.setenv("GRPC_VERBOSITY", "NONE")
    monkeypatch.setattr(logs, "configure", lambda _: None)
    monkeypatch.setattr(process, "serve", serve)
    with pytest.raises(SystemExit) as ended:
        command.main()
    assert ended.value.code == 0


def test_sigterm_while_the_supervisor_opens_its_port_is_a_stop_that_leaves_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_metrics = startup.open_metrics

    def open_late(*arguments: Any) -> MonitoringServer:
        os.kill(os.getpid(), signal.SIGTERM)
        return open_metrics(*arguments)

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv(COMMIT_VARIABLE, "")
    monkeypatch.setattr(supervisor, "open_metrics", open_late)
    settings = make_settings(model_repository=tmp_path, workers=2, grpc_port=0, metrics_port=0)
    assert supervisor.serve(settings) == 0
    assert not list(tmp_path.iterdir())
