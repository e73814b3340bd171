"""Run folders, their checkpoints and metrics, and the signals that stop a run."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from training.runs.run_folder import RunFolder, create_run_folder
from training.signals import SignalHandler


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = create_run_folder(tmp_path, "m", {"seed": 1})
    folder.checkpoints.save({"step": 1})

    def fail(_: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="no space"):
        folder.checkpoints.save({"step": 2})
    assert RunFolder(folder.path).checkpoints.load() == {"step": 1}
    assert sorted(path.name for path in folder.path.iterdir()) == ["checkpoint.pt", "settings.json"]


def test_runs_that_start_in_the_same_second_get_different_folders(tmp_path: Path) -> None:
    folders = [create_run_folder(tmp_path, "m", {"seed": 1}) for _ in range(3)]
    assert len({folder.path for folder in folders}) == 3


def test_during_training_the_second_signal_interrupts_and_otherwise_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    handlers: dict[int, Callable[[int, None], None]] = {}
    monkeypatch.setattr("signal.signal", handlers.__setitem__)
    signals = SignalHandler()
    with signals:
        assert not signals.should_stop()
        handlers[signal.SIGTERM](signal.SIGTERM, None)
        assert signals.should_stop() and signals.signal_number == signal.SIGTERM
        with pytest.raises(KeyboardInterrupt):
            handlers[signal.SIGINT](signal.SIGINT, None)
    outside_training = SignalHandler()
    with pytest.raises(KeyboardInterrupt):
        handlers[signal.SIGTERM](signal.SIGTERM, None)
    assert outside_training.signal_number == signal.SIGTERM
