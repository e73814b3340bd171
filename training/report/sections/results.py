"""The figures of a run: its curves, and those on the test split.

Not here: how the figures come about (evaluation/).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from training.report import charts
from training.report.section import CannotDraw, ReportInput

# Of more classes than this, the confusion matrix becomes the list of the most confused pairs, and the table of classes
# that of those with the lowest recall.
MAX_CLASSES = 30
MAX_PAIRS = 30


@dataclass(frozen=True)
class ClassFigures:
    """A class: its images in each split, and its figures on the test split, from 0 to 1; nan where there is none."""

    name: str
    training: int
    validation: int
    test: int
    precision: float
    recall: float


def training_curves(report: ReportInput) -> Mapping[str, Any]:
    """The charts of training, and whether it was watched on the test split."""
    curves = charts.training_curves(report.metrics)
    if not curves:
        raise CannotDraw("The run has recorded no progress.")
    watched = any(line.get("test_accuracy") is not None for line in report.metrics)
    return {"charts": [Markup(chart) for chart in curves], "watched": watched}  # noqa: S704 # SVG of our own


def confusion(report: ReportInput) -> Mapping[str, Any]:
    """The matrix, each count with its share of the row; or, of many classes, the most confused pairs."""
    counts = report.evaluation.confusion
    totals = counts.sum(1, keepdim=True).clamp_min(1)
    if len(counts) <= MAX_CLASSES:
        rows = [
            list(zip(row, shares, strict=True))
            for row, shares in zip(counts.tolist(), (counts / totals).sqrt().tolist(), strict=True)
        ]
        return {"names": report.names, "rows": rows, "pairs": []}
    wrong = counts.clone().fill_diagonal_(0).flatten()
    largest = wrong.argsort(descending=True)[:MAX_PAIRS].tolist()
    pairs = [
        (report.names[index // len(counts)], report.names[index % len(counts)], int(wrong[index]),
         float(wrong[index] / totals[index // len(counts), 0]))
        for index in largest
        if wrong[index]
    ]  # fmt: skip
    return {"names": report.names, "rows": [], "pairs": pairs}


def classes(report: ReportInput) -> Mapping[str, Any]:
    """The classes, or of many those with the lowest recall; and how many images they have to train on."""
    experiment, evaluation = report.experiment, report.evaluation
    splits = (experiment.training, experiment.validation, experiment.dataset.test)
    training, validation, test = (split.labels.bincount(minlength=len(report.names)).tolist() for split in splits)
    figures = [
        ClassFigures(
            name=name,
            training=training[index],
            validation=validation[index],
            test=test[index],
            precision=_number(evaluation.precision[index]),
            recall=_number(evaluation.recall[index]),
        )
        for index, name in enumerate(report.names)
    ]
    return {"classes": _lowest_recall(figures), "total": len(figures), "training": sorted(training)}


def calibration(report: ReportInput) -> Mapping[str, Any]:
    """The reliability diagram and its bins."""
    diagram = charts.reliability_diagram(report.evaluation)
    fitted = report.facts.get("calibration")  # the temperature, if one was fitted
    return {"chart": Markup(diagram), "evaluation": report.evaluation, "fitted": fitted}  # noqa: S704 # SVG of our own


def robustness(report: ReportInput) -> Mapping[str, Any]:
    """The accuracy on perturbed test images."""
    if not report.evaluation.perturbed_accuracy:
        raise CannotDraw("The accuracy on perturbed images was not measured.")
    return {"evaluation": report.evaluation}


def _lowest_recall(figures: Sequence[ClassFigures]) -> Sequence[ClassFigures]:
    if len(figures) <= MAX_CLASSES:
        return figures
    tested = [figure for figure in figures if figure.test]
    return sorted(tested, key=lambda figure: figure.recall)[:MAX_CLASSES]


def _number(value: float | None) -> float:
    return float("nan") if value is None else value
