"""Charts as SVG, one file each, so that a narrow screen shows them below one another at a readable size.

They follow the page's colours, light or dark: matplotlib draws with INK, which is replaced by `currentColor`.

Not here: images (pictures.py), tables (sections.html.j2).
"""

import html
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from training.evaluation.evaluate import Evaluation

INK = "#010203"
TRAINING, VALIDATION, TEST = "#3b82f6", "#f59e0b", "#10b981"
# Inches and points: on a phone, a chart is as wide as the screen, and its text about 12 pixels high.
SIZE, TEXT_SIZE = (3.5, 2.5), 9
# Of one curve: longer ones are shown by the means of neighbouring points.
MAX_POINTS = 400


def training_curves(metrics: Sequence[Mapping[str, Any]]) -> list[str]:
    """Loss, accuracy, learning rate and images per second over the epochs; each chart that has a point."""
    charts = []
    for title, names in (
        ("loss", ("loss", "validation_loss", "test_loss")),
        ("accuracy", ("accuracy", "validation_accuracy", "test_accuracy")),
        ("learning rate", ("learning_rate",)),
        ("images per second", ("images_per_second",)),
    ):
        curves = [_points(metrics, name) for name in names]
        if any(curves):
            charts.append(_over_epochs(title, curves))
    return charts


def reliability_diagram(evaluation: Evaluation) -> str:
    """Accuracy over confidence, above the share of images in each bin; a calibrated network lies on the diagonal."""
    figure = Figure(figsize=(SIZE[0], 3.4), layout="constrained")
    axes, counts = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    bins = evaluation.calibration_bins
    total = sum(b.count for b in bins)
    axes.plot([0, 1], [0, 1], color=INK, linewidth=0.8, linestyle=":")
    axes.plot([b.confidence for b in bins], [b.accuracy for b in bins], color=TRAINING, marker="o", markersize=4)
    axes.set(ylabel="accuracy", xlim=(0, 1.02), ylim=(0, 1.02))
    counts.bar([b.confidence for b in bins], [b.count / total for b in bins], width=0.03, color=TRAINING)
    counts.set(xlabel="confidence", ylabel="images", ylim=(0, 1))
    for each in (axes, counts):
        each.yaxis.set_major_formatter(mpl.ticker.PercentFormatter(1.0, decimals=0))
    return _svg(figure, "Accuracy over confidence, and the share of the test images in each bin", axes, counts)


def _points(metrics: Sequence[Mapping[str, Any]], name: str) -> list[tuple[float, float]]:
    """(epoch, value) of the reports that have the value, at most MAX_POINTS."""
    points = [
        (line["step"] * line["epochs"] / line["steps"], float(value))
        for line in metrics
        if (value := line.get(name)) is not None and math.isfinite(value)
    ]
    each = len(points) // MAX_POINTS + 1
    groups = [points[start : start + each] for start in range(0, len(points), each)]
    return [(group[-1][0], sum(value for _, value in group) / len(group)) for group in groups]


def _over_epochs(title: str, curves: Sequence[Sequence[tuple[float, float]]]) -> str:
    """A chart of the curves of the training, validation and test images, those that have points."""
    figure = Figure(figsize=SIZE, layout="constrained")
    axes = figure.subplots()
    styles: tuple[dict[str, Any], ...] = (
        {"color": TRAINING, "label": "training", "linewidth": 1.5},
        {"color": VALIDATION, "label": "validation", "marker": "o", "markersize": 3},
        {"color": TEST, "label": "test", "marker": "s", "markersize": 3, "linestyle": "--"},
    )
    shown = [(curve, style) for curve, style in zip(curves, styles, strict=False) if curve]
    for curve, style in shown:
        epochs, values = zip(*curve, strict=True)
        axes.plot(epochs, values, **style | ({"marker": "o", "markersize": 3} if len(curve) == 1 else {}))
    axes.set(title=title, xlabel="epoch")
    axes.xaxis.set_major_locator(mpl.ticker.MaxNLocator(integer=True, nbins=6))
    if len(shown) > 1:
        axes.legend(frameon=False, labelcolor=INK, fontsize=TEXT_SIZE - 1)
    if title == "accuracy":
        axes.yaxis.set_major_formatter(mpl.ticker.PercentFormatter(1.0, decimals=None))
    if title == "images per second":
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter(mpl.ticker.EngFormatter())
    last = ", ".join(f"{style['label']} {curve[-1][1]:.4g} at the end" for curve, style in shown)
    return _svg(figure, f"{title.capitalize()} over the epochs: {last}", axes)


def _svg(figure: Figure, description: str, *all_axes: Axes) -> str:
    """The figure as SVG without background; its lines and text take the page's text colour."""
    for axes in all_axes:
        axes.set_facecolor("none")
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(INK)
        axes.tick_params(colors=INK, labelsize=TEXT_SIZE - 1)
        for text in (axes.title, axes.xaxis.label, axes.yaxis.label):
            text.set_color(INK)
            text.set_fontsize(TEXT_SIZE)
        axes.yaxis.get_offset_text().set_color(INK)
    buffer = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "report"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    drawn = buffer.getvalue()
    svg = drawn[drawn.index("<svg") :].replace(INK, "currentColor")
    return svg.replace("<svg", f'<svg role="img" aria-label="{html.escape(description)}"', 1)
