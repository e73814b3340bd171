"""The progress display: lines in a log, a bar in a terminal, and the throughput."""

import dataclasses
import io
import re

import pytest
from rich.console import Console

from training.trainer import progress
from training.trainer.progress import TrainingProgress

PROGRESS = TrainingProgress(
    epoch=1, epochs=2, step=50, steps=100, images=500, seconds=10.0, images_per_second=60.0, loss=0.4, accuracy=0.9,
    epoch_loss=0.5, epoch_accuracy=0.8, learning_rate=1e-3, epoch_ended=True, validation_accuracy=0.9,
)  # fmt: skip


def test_a_log_gets_one_line_without_control_codes_per_epoch(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.LogLines() as show:
        show(dataclasses.replace(PROGRESS, step=25, images=250, epoch_ended=False, validation_accuracy=None))
        show(PROGRESS)
        show(dataclasses.replace(PROGRESS, epoch=2, step=100, images=1000, validation_accuracy=None))
    first, second = capsys.readouterr().out.splitlines()
    assert first == "epoch 1/2  loss 0.500  accuracy 80.0%  validation 90.00%  60 images/s  10 s left"
    assert "epoch 2/2" in second and "validation" not in second and "left" not in second
    assert "\x1b" not in first


def test_forced_colours_make_no_terminal_of_a_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert isinstance(progress.progress_display(), progress.LogLines)


def test_the_time_left_is_that_of_the_steps_left_at_the_mean_speed_so_far() -> None:
    assert dataclasses.replace(PROGRESS, step=20, steps=100, seconds=10.0).seconds_left == 40.0


@pytest.mark.parametrize(
    ("steps", "reported"),
    [(5, [5]), (25, [25]), (47, [25, 47]), (51, [25, 51]), (62, [25, 50, 62]), (100, [25, 50, 75, 100])],
)
def test_every_report_is_of_at_least_12_steps_or_the_whole_epoch(steps: int, reported: list[int]) -> None:
    assert [step for step in range(1, steps + 1) if progress.reports_after(step, steps)] == reported


def test_the_bar_shows_a_moving_average_of_images_per_second() -> None:
    with progress.ProgressBar(Console(file=io.StringIO(), force_terminal=True)) as show:
        show(dataclasses.replace(PROGRESS, images_per_second=100.0))
        assert show.rate == 100
        show(dataclasses.replace(PROGRESS, images_per_second=200.0))
        assert show.rate == pytest.approx(130)


def test_a_terminal_gets_a_progress_bar_with_loss_accuracy_and_images_per_second() -> None:
    screen = io.StringIO()
    with progress.ProgressBar(Console(file=screen, force_terminal=True, width=140)) as show:
        show(PROGRESS)
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", screen.getvalue())
    for text in ("loss 0.500", "accuracy 80.0%", "50%", "images/s", "━"):
        assert text in shown
