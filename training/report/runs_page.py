"""`index.html` of all runs: their curves overlaid, and the table with links to their reports.

One file without outside links; it does not import torch, so that `python -m training runs` can write it at once.

Not here: reading the runs (runs/record.py), the page of one comparison (comparison_page.py).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2

from training.atomic_files import write_atomically
from training.runs import files
from training.runs.lock import waited_lock
from training.runs.record import RunRecord, comparison_folders, read_runs
from training.runs.table import COLUMNS

MAX_CHARTED_RUNS = 50
MAX_ROWS = 1000
MAX_POINTS = 200  # of one curve
CURVES = ("validation_accuracy", "validation_loss", "test_accuracy", "test_loss", "accuracy", "loss")
# Colours that can be told apart on white and on black; then the same again, dashed.
COLOURS = ("#3b82f6", "#f59e0b", "#10b981", "#ef4444", "#8b5cf6", "#ec4899", "#14b8a6", "#84cc16", "#a16207", "#64748b")
DASHES = ("", "6 4", "2 4")


@dataclass(frozen=True)
class Row:
    """A run's row of the table, and its curves if they are shown."""

    cells: list[tuple[str, bool]]  # text, and whether it is a number
    link: str
    curve: dict[str, Any] | None


def write_index(runs_dir: Path) -> Path:
    """Write index.html into the folder of all runs.

    Raises:
        OSError: it cannot be written.
    """
    path = runs_dir / files.INDEX
    with waited_lock(runs_dir):  # so that the run that ends last writes last
        write_atomically(path, render_index(runs_dir).encode())
    return path


def render_index(runs_dir: Path) -> str:
    """The page of all runs in a folder, the newest first."""
    runs = read_runs(runs_dir)[::-1]
    comparisons = comparison_folders(runs_dir)[::-1]
    return render(
        "runs.html.j2",
        runs[:MAX_ROWS],
        lambda position, _: position,
        title=f"{len(runs):,} runs",
        left_out=max(0, len(runs) - MAX_ROWS),
        comparisons=[(f"{quote(path.name)}/{files.COMPARISON_PAGE}", path.name) for path in comparisons],
    )


def render(
    template: str, runs: Sequence[RunRecord], style: Callable[[int, RunRecord], int], *, up: str = "", **values: Any
) -> str:
    """A page with the table and the curves of these runs.

    `style` numbers the line style of a run, from its position and the run; `up` leads from the page to the run folders.
    """
    rows: list[Row] = []
    curves: list[dict[str, Any]] = []
    not_charted = 0
    for run in runs:
        curve = None
        not_charted += len(curves) == MAX_CHARTED_RUNS
        if len(curves) < MAX_CHARTED_RUNS and (series := read_series(run.path)):
            number = style(len(curves), run)
            colour, dash = COLOURS[number % len(COLOURS)], DASHES[number // len(COLOURS) % len(DASHES)]
            curve = {"id": run.id, "name": run.id, "colour": colour, "dash": dash, "series": series}
            curves.append(curve)
        link = f"{up}{quote(run.id)}/{files.REPORT}" if run.report else ""
        rows.append(Row([(column.cell(run), column.number) for column in COLUMNS], link, curve))
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template(template).render(
        rows=rows,
        curves=curves,
        not_charted=not_charted,
        headings=[(column.heading, column.number) for column in COLUMNS],
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        **{"left_out": 0, "comparisons": []} | values,
    )


def read_series(folder: Path) -> dict[str, list[tuple[float, float]]]:
    """The curves that have a point: (epoch, value) at the end of epochs, at most about MAX_POINTS."""
    try:
        lines = files.read_metrics(folder / files.METRICS)
    except OSError:
        return {}
    ends = [line for line in lines if line.get("epoch_ended") and isinstance(line.get("epoch"), int)]
    every = len(ends) // MAX_POINTS + 1
    kept = [line for number, line in enumerate(ends, 1) if number % every == 0 or number == len(ends)]
    series = {
        name: [(line["epoch"], float(f"{line[name]:.5g}")) for line in kept if _is_finite(line.get(name))]
        for name in CURVES
    }
    return {name: points for name, points in series.items() if points}


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
