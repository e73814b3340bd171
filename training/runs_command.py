"""`python -m training runs`: print the table of all runs and write their page, without importing torch.

Not here: the table (runs/table.py), the page (report/runs_page.py).
"""

import argparse
import os
import sys
from pathlib import Path

from training.report import runs_page
from training.runs import files
from training.runs.record import read_runs
from training.runs.table import runs_table, terminal_width

DESCRIPTION = """\
List all training runs, the newest last, and write RUNS_DIR/index.html, which overlays their curves.

The table has validation and test accuracy (± its standard error), expected calibration error (ECE), seconds of
training, images per second, the published version and the state. In a terminal, columns that do not fit are left out;
in a pipe there are all."""
EPILOG = "A stopped run continues with: python -m training --resume RUNS_DIR/RUN"


def main(arguments: list[str]) -> int:
    """Run the command; the exit status."""
    given = _parser().parse_args(arguments)
    runs = read_runs(given.runs_dir)
    shown = [run for run in runs if run.matches(given.filter)]
    if not shown:
        words = f" that match {' '.join(given.filter)}" if given.filter else ""
        print(f"{given.runs_dir} holds no runs{words}", file=sys.stderr)
        return 1
    print(runs_table(shown, terminal_width()))
    for state, advice in (
        ("stopped", "continue the newest stopped run: python -m training --resume"),
        ("failed", "try the newest failed run again: python -m training --resume"),
    ):
        if matching := [run for run in shown if run.state == state]:
            print(f"{advice} {matching[-1].path}")
    try:
        print(f"page {runs_page.write_index(given.runs_dir)}")
    except OSError as error:
        print(f"{given.runs_dir / files.INDEX} not written: {error}", file=sys.stderr)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m training runs",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "filter",
        nargs="*",
        help="show only runs with each of these words in a cell, such as cifar10, stopped or seed1",
    )
    parser.add_argument(
        "--runs-dir",
        type=Path,
        default=Path(os.environ.get("TRAINING_RUNS_DIR", "runs")),
        help="folder of all run folders (default: %(default)s, env: TRAINING_RUNS_DIR)",
    )
    return parser
