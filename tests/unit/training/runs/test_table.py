"""The table of runs fits the width that there is, and the means over seeds."""

import json
from pathlib import Path

import pytest

from tests.support.runs import facts, write_run
from training.runs.groups import Group, summary_lines
from training.runs.record import RunRecord, read_runs
from training.runs.table import COLUMNS, runs_table


def runs(tmp_path: Path) -> list[RunRecord]:
    """A finished, a stopped and a failed run."""
    finished = write_run(tmp_path, "20261129-164345-mnist-cnn-seed0", facts=facts(0.9957))
    (finished / "result.json").write_text(json.dumps({"published": "models/mnist-cnn/1"}))
    write_run(tmp_path, "20261129-164346-mnist-cnn-seed1", seed=1)
    failed = write_run(tmp_path, "20261129-164347-mnist-cnn-seed2", seed=2)
    (failed / "error.txt").write_text("the loss is not finite at step 3 of 50; the last checkpoint is kept" * 3)
    return read_runs(tmp_path)


def test_without_a_width_every_column_and_message_is_there(tmp_path: Path) -> None:
    header, finished, stopped, failed = runs_table(runs(tmp_path)).splitlines()
    assert header.split("  ")[0] == "run" and all(column.heading in header for column in COLUMNS)
    assert finished.split() == [
        "20261129-164345-mnist-cnn-seed0", "mnist-cnn", "mnist", "tuned", "max", "5", "0", "98.00", "99.57", "±",
        "0.07", "1.23", "20", "150", "mnist-cnn/1", "finished",
    ]  # fmt: skip
    assert stopped.endswith("stopped at step 30 of 50") and failed.endswith("the last checkpoint is kept")


@pytest.mark.parametrize("width", [30, 80, 100, 120, 160, 200])
def test_no_line_is_wider_than_the_terminal_and_the_left_out_columns_are_named(tmp_path: Path, width: int) -> None:
    lines = runs_table(runs(tmp_path), width).splitlines()
    assert max(map(len, lines)) <= width
    shown = [column.heading for column in COLUMNS if column.heading in lines[0]]
    if width >= 80:
        assert {"run", "test %", "state"} <= set(shown)
        assert len(lines) == (4 if len(shown) == len(COLUMNS) else 5)
    assert all(line.startswith("20261129-1643") for line in lines[1:4])


def test_means_over_seeds_have_the_sample_standard_deviation(tmp_path: Path) -> None:
    accuracies = {"max": (0.99, 0.98, 0.97), "avg": (0.95, 0.95, 0.95)}
    for pooling, values in accuracies.items():
        for seed, value in enumerate(values):
            write_run(tmp_path, f"{pooling}{seed}", facts=facts(value), pooling=pooling, seed=seed)
    every = read_runs(tmp_path)
    groups = [Group(kind, tuple(run for run in every if run.pooling == kind)) for kind in accuracies]
    assert summary_lines(groups, "pooling") == [
        "pooling: test accuracy %, mean ± sample standard deviation",
        "  max  98.00 ± 1.00  3 seeds",
        "  avg  95.00 ± 0.00  3 seeds",
    ]
    one = [Group("max", groups[0].runs[:1]), Group("avg", ())]
    assert summary_lines(one, "pooling")[1:] == ["  max  99.00 ± 0.10", "  avg  –"]
