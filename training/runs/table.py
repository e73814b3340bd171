"""The table of runs: plain text, as wide as the terminal or, in a pipe, as wide as needed.

Not here: reading the runs (record.py), the page with their curves (report/runs_page.py).
"""

import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from training.runs.record import RunRecord

GAP = "  "
MIN_LAST_COLUMN = 20  # the state, which may be cut off, keeps this width


@dataclass(frozen=True)
class Column:
    """A column: its heading, its cell for a run, and its rank; where the width is short, the highest ranks go first."""

    heading: str
    cell: Callable[[RunRecord], str]
    rank: int = 0
    number: bool = True  # aligned to the right


def percent(value: float | None, digits: int = 2) -> str:
    """A fraction in percent, without the sign; a dash if there is none."""
    return "–" if value is None else f"{100 * value:.{digits}f}"


def accuracy(run: RunRecord) -> str:
    """The test accuracy in percent ± its standard error."""
    error = run.test_error
    return percent(run.test_accuracy) + ("" if error is None else f" ± {100 * error:.2f}")


def whole(value: float | None) -> str:
    """A number without decimals; a dash if there is none."""
    return "–" if value is None else f"{value:,.0f}"


COLUMNS = (
    Column("run", lambda run: run.id, number=False),
    Column("network", lambda run: run.network or "–", rank=9, number=False),
    Column("data", lambda run: run.dataset or "–", rank=5, number=False),
    Column("recipe", lambda run: run.recipe or "–", rank=6, number=False),
    Column("pooling", lambda run: run.pooling or "–", rank=4, number=False),
    Column("epochs", lambda run: whole(run.epochs), rank=7),
    Column("seed", lambda run: "–" if run.seed is None else str(run.seed), rank=10),
    Column("val %", lambda run: percent(run.validation_accuracy), rank=2),
    Column("test %", accuracy),
    Column("ECE %", lambda run: percent(run.calibration_error), rank=3),
    Column("seconds", lambda run: whole(run.seconds), rank=8),
    Column("images/s", lambda run: whole(run.images_per_second), rank=8),
    Column("published", lambda run: run.published or "–", rank=1, number=False),
    Column("state", lambda run: run.status, number=False),
)


def runs_table(runs: Sequence[RunRecord], width: int | None = None) -> str:
    """The table; of less than the width that it needs, columns are left out and the state is cut off."""
    columns = list(COLUMNS)
    cells = {column.heading: [column.heading, *(column.cell(run) for run in runs)] for column in columns}
    widths = {heading: max(map(len, column)) for heading, column in cells.items()}
    needed = dict(widths, state=min(widths["state"], MIN_LAST_COLUMN))
    hidden = []
    while width and _total(needed, columns) > width and (droppable := [column for column in columns if column.rank]):
        hidden.append(max(droppable, key=lambda column: column.rank))
        columns.remove(hidden[-1])
    lines = [_line(columns, cells, widths, row)[:width].rstrip() for row in range(len(runs) + 1)]
    if hidden:
        names = ", ".join(column.heading for column in COLUMNS if column in hidden)
        lines.append(f"Left out in this width: {names}."[:width])
    return "\n".join(lines)


def terminal_width() -> int | None:
    """Columns of the terminal that standard output is; None in a pipe or a file."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def _total(widths: dict[str, int], columns: Sequence[Column]) -> int:
    return sum(widths[column.heading] for column in columns) + len(GAP) * (len(columns) - 1)


def _line(columns: Sequence[Column], cells: dict[str, list[str]], widths: dict[str, int], row: int) -> str:
    return GAP.join(
        f"{cells[column.heading][row]:{'>' if column.number else '<'}{widths[column.heading]}}" for column in columns
    )
