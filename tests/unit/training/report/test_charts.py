"""Charts show what was measured, whichever of it there is, and stay small."""

import math
import re

from tests.support.reports import progress
from training.report import charts
from training.report.charts import TEST, TRAINING, VALIDATION


def titles(drawn: list[str]) -> list[str]:
    """What each chart's label begins with."""
    return [re.findall('aria-label="(.*?) over the epochs', chart)[0] for chart in drawn]


def test_each_chart_shows_the_splits_that_were_measured() -> None:
    lines = [progress(epoch, validation_loss=0.3, test_loss=0.2, test_accuracy=0.9) for epoch in (1, 2)]
    drawn = charts.training_curves(lines)
    assert titles(drawn) == ["Loss", "Accuracy", "Learning rate", "Images per second"]
    colours = [[colour in chart for colour in (TRAINING, VALIDATION, TEST)] for chart in drawn]
    assert colours == [[True] * 3, [True] * 3, [True, False, False], [True, False, False]]
    assert 'aria-label="Loss over the epochs: training 0.5 at the end, validation 0.3 at the end' in drawn[0]


def test_figures_that_are_missing_or_not_finite_are_left_out() -> None:
    lines = [progress(1, loss=math.nan), progress(2, loss=None, images_per_second=None), progress(3)]
    assert titles(charts.training_curves(lines)) == ["Loss", "Accuracy", "Learning rate", "Images per second"]
    assert titles(charts.training_curves([progress(1, loss=math.inf, images_per_second=None)])) == [
        "Accuracy", "Learning rate",
    ]  # fmt: skip
    assert charts.training_curves([]) == []


def test_a_long_run_has_charts_of_a_bounded_size() -> None:
    lines = [progress(1, step=step, steps=20_000, loss=1 / step, accuracy=step % 7 / 7) for step in range(1, 20_001)]
    assert all(len(chart) < 60_000 for chart in charts.training_curves(lines))


def test_lines_and_text_take_the_pages_colour() -> None:
    for chart in charts.training_curves([progress(1), progress(2)]):
        assert charts.INK not in chart and "currentColor" in chart and "#000000" not in chart
