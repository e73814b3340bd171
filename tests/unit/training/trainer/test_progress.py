"""The progress display: lines in a log, a bar in a terminal, and the throughput."""

import dataclasses
import io
import re

import pytest
from rich.console import Console

from training.trainer import progress
from training.trainer.progress import TrainingProgress

PROGRESS = TrainingProgress(
    epoch=1, epochs=2, step=50, steps=100, images=500, loss=0.5, accuracy=0.8, learning_rate=1e-3, epoch_ended=True,
    validation_accuracy=0.9,
)  # fmt: skip


def test_a_log_gets_one_line_without_control_codes_per_epoch(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.LogLines() as show:
        show(dataclasses.replace(PROGRESS, step=25, images=250, epoch_ended=False, validation_accuracy=None))
        show(PROGRESS)
        show(dataclasses.replace(PROGRESS, epoch=2, step=100, images=1000, validation_accuracy=None))
    first, second = capsys.readouterr().out.splitlines()
    for text in ("epoch 1/2", "loss 0.500", "accuracy 80.0%", "validation 90.00%", "images/s", "s left"):
        assert text in first
    assert "epoch 2/2" in second and "validation" not in second
    assert "\x1b" not in first


def test_the_throughput_of_a_resumed_run_excludes_the_images_before(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([100.0, 110.0, 120.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    throughput = progress.Throughput()  # of a run that is resumed at step 1,000
    assert throughput(dataclasses.replace(PROGRESS, step=1025, images=10_250)) == 25.0
    assert throughput(dataclasses.replace(PROGRESS, step=1050, images=10_500)) == 25.0


def test_a_terminal_gets_a_progress_bar_with_loss_accuracy_and_images_per_second() -> None:
    screen = io.StringIO()
    with progress.ProgressBar(Console(file=screen, force_terminal=True, width=140)) as show:
        show(PROGRESS)
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", screen.getvalue())
    for text in ("loss 0.500", "accuracy 80.0%", "50%", "images/s", "━"):
        assert text in shown
