"""Runs that differ in nothing but the seed, and their mean ± sample standard deviation.

Not here: training them (comparison.py), their page (report/comparison_page.py).
"""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from training.runs.record import RunRecord
from training.runs.table import accuracy, percent


@dataclass(frozen=True)
class Group:
    """Finished runs that differ in nothing but the seed, under the name of what they share."""

    name: str
    runs: tuple[RunRecord, ...]

    def mean(self, value: Callable[[RunRecord], float | None]) -> float | None:
        """The mean over the runs that have the value; None if no run has it."""
        values = self._values(value)
        return statistics.fmean(values) if values else None

    def deviation(self, value: Callable[[RunRecord], float | None]) -> float | None:
        """The sample standard deviation; None of less than two runs."""
        values = self._values(value)
        return statistics.stdev(values) if len(values) > 1 else None

    @property
    def test_accuracy(self) -> str:
        """In percent: mean ± deviation over the runs; of one run, ± its standard error."""
        deviation = self.deviation(lambda run: run.test_accuracy)
        if deviation is None:
            return accuracy(self.runs[0]) if self.runs else "–"
        return f"{percent(self.mean(lambda run: run.test_accuracy))} ± {100 * deviation:.2f}"

    def _values(self, value: Callable[[RunRecord], float | None]) -> list[float]:
        return [found for run in self.runs if (found := value(run)) is not None]


def summary_lines(groups: Sequence[Group], grouped_by: str) -> list[str]:
    """One line for each group, for the terminal: name, number of runs, test accuracy."""
    width = max((len(group.name) for group in groups), default=0)
    several = any(len(group.runs) > 1 for group in groups)
    what = "mean ± sample standard deviation" if several else "± standard error"
    return [f"{grouped_by}: test accuracy %, {what}"] + [
        f"  {group.name:{width}}  {group.test_accuracy}" + (f"  {len(group.runs)} seeds" if several else "")
        for group in groups
    ]
