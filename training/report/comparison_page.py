"""`comparison.html`: runs that differ in seed or pooling, with means, curves and what each pooling does.

Not here: training them (comparison.py), the pictures (pooling_pictures.py), the index of all runs (runs_page.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from training.report.pooling_pictures import POSITIONS
from training.report.runs_page import render
from training.runs.groups import Group
from training.runs.table import percent, whole


@dataclass(frozen=True)
class Comparison:
    """What the page shows. `pictures` has those of the inputs first, each list one picture per pooling layer."""

    title: str
    command: str  # that repeats it
    groups: Sequence[Group]
    planned: int  # runs, finished or not
    grouped_by: str
    pictures: dict[str, list[dict[str, str]]]


def render_comparison(comparison: Comparison) -> str:
    """The page; it lies one folder below that of all runs."""
    runs = [run for group in comparison.groups for run in group.runs]
    styles = {run.path: number for number, group in enumerate(comparison.groups) for run in group.runs}
    one_group = len(comparison.groups) == 1
    several = any(len(group.runs) > 1 for group in comparison.groups)
    return render(
        "comparison.html.j2",
        runs,
        lambda position, run: position if one_group else styles[run.path],
        up="../",
        title=comparison.title,
        planned=f"{len(runs)} of {comparison.planned} runs are finished.",
        grouped_by=comparison.grouped_by,
        groups=[_row(group) for group in comparison.groups],
        deviation="± is the sample standard deviation over the seeds." if several else "± is the standard error.",
        pictures=_by_position(comparison.pictures),
        reference=next((name for name in list(comparison.pictures)[1:]), ""),
        command=comparison.command,
    )


def _row(group: Group) -> dict[str, str]:
    def mean(name: str) -> float | None:
        return group.mean(lambda run: getattr(run, name))

    return {
        "name": group.name,
        "runs": str(len(group.runs)),
        "parameters": whole(mean("parameters")),
        "test": group.test_accuracy,
        "validation": percent(mean("validation_accuracy")),
        "ece": percent(mean("calibration_error")),
        "seconds": whole(mean("seconds")),
        "speed": whole(mean("images_per_second")),
    }


def _by_position(pictures: dict[str, list[dict[str, str]]]) -> list[dict[str, object]]:
    """For each pooling layer, the pictures of the input and of every kind."""
    return [
        {
            "name": name,
            "pictures": [{"name": kind} | images[index] for kind, images in pictures.items() if index < len(images)],
        }
        for index, name in enumerate(POSITIONS)
        if any(index < len(images) for images in pictures.values())
    ]
