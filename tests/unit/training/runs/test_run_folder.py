"""Run folders, their checkpoints and metrics, and the signals that stop a run."""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from training.errors import TrainingError
from training.runs.run_folder import MetricsLog, RunFolder, create_run_folder
from training.signals import SignalHandler
from training.trainer.progress import TrainingProgress


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


def test_tensorboard_gets_the_figures_of_training_and_validation(tmp_path: Path) -> None:
    event_file = pytest.importorskip("tensorboard.backend.event_processing.event_file_loader")
    progress = TrainingProgress(
        epoch=1, epochs=1, step=5, steps=5, images=9, seconds=1.0, images_per_second=9.0, loss=0.5, accuracy=0.8,
        epoch_loss=0.7, epoch_accuracy=0.6, learning_rate=0.1, validation_accuracy=0.9, validation_loss=0.3,
    )  # fmt: skip
    with MetricsLog(tmp_path, tensorboard=True) as log:
        log(progress)
    (path,) = tmp_path.glob("events*")
    found = {
        value.tag: value.tensor.float_val[0]
        for event in event_file.EventFileLoader(str(path)).Load()
        for value in event.summary.value
    }
    assert found == pytest.approx(
        {
            "loss": 0.5, "accuracy": 0.8, "learning_rate": 0.1, "images_per_second": 9.0, "validation_accuracy": 0.9,
            "validation_loss": 0.3,
        }
    )  # fmt: skip


def test_tensorboard_without_its_package_is_a_training_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(TrainingError, match="pip install tensorboard"), MetricsLog(tmp_path, tensorboard=True):
        pass


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
