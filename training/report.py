"""`report.html`: one file with pictures of what was learned, which needs nothing else and no network.

Owns: the pictures, and putting them into report.html.j2. Does not own: the figures (evaluate.py, runs.py).

Curves and filters are SVG or PNG in the page itself. Charts take the page's own colours, light or dark: matplotlib is
given INK, which becomes `currentColor`.
"""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import matplotlib as mpl
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from training.data import Dataset
from training.evaluate import Evaluation
from training.layers import layers_of
from training.networks import Classifier

TEMPLATE = Path(__file__).parent / "report.html.j2"
INK = "#010203"
SHOWN = 20  # test images
TRAINING_SHOWN = 40
MAPS_SHOWN = 16  # of a layer's feature maps


@dataclass(frozen=True)
class Shown:
    """An image with what is said below it."""

    picture: str  # a data URL
    true: str
    predicted: str
    probability: float

    @property
    def wrong(self) -> bool:
        """Whether the network was."""
        return self.true != self.predicted


def render(
    *,
    title: str,
    dataset: Dataset,
    model: Classifier,
    evaluation: Evaluation,
    history: Sequence[dict[str, Any]],
    facts: dict[str, str],
    settings: dict[str, Any],
    command: str,
    manifest: str,
) -> str:
    """The page. `facts` stand at its top; `command` repeats the run."""
    test, names = dataset.test, dataset.label_names
    confidence, predicted = evaluation.probabilities.max(1)
    wrong = (predicted != test.labels).nonzero()[:, 0]
    one = int((predicted == test.labels).nonzero()[0, 0]) if len(wrong) < len(test) else 0
    layers = layers_of(model.body, model.prepare(test.images[one : one + 1]))

    def shown(indices: Tensor) -> list[Shown]:
        return [
            Shown(picture(test.images[i]), names[test.labels[i]], names[predicted[i]], float(confidence[i]))
            for i in indices.tolist()
        ]

    first = next(layer for layer in model.body if isinstance(layer, torch.nn.Conv2d))
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    return environment.from_string(TEMPLATE.read_text()).render(
        title=title,
        facts=facts,
        training=[
            (picture(dataset.train.images[i]), names[dataset.train.labels[i]])
            for i in range(min(TRAINING_SHOWN, len(dataset.train)))
        ],
        curves=_curves(history),
        reliability=_reliability(evaluation),
        calibration_error=evaluation.calibration_error,
        changed=evaluation.changed,
        accuracy=evaluation.accuracy,
        names=names,
        confusion=_shaded(evaluation.confusion),
        classes=list(zip(names, evaluation.precision, evaluation.recall, strict=True)),
        shown=shown(torch.linspace(0, len(test) - 1, min(SHOWN, len(test))).long()),
        wrong=shown(wrong[confidence[wrong].argsort(descending=True)][:SHOWN]),
        wrong_count=len(wrong),
        test_count=len(test),
        filters=_filters(first.weight.detach()),
        first=first,
        example=picture(test.images[one]),
        example_label=names[test.labels[one]],
        maps=[(layer, _maps(layer.output[0])) for layer in layers if layer.output.ndim == 4 and layer.size != "1×1"],
        layers=layers,
        parameters=sum(layer.parameters for layer in layers),
        settings=settings,
        command=command,
        manifest=manifest,
    )


def picture(image: Tensor) -> str:
    """An image uint8 (H, W, C) as a data URL."""
    pixels = image.numpy()
    made = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    buffer = io.BytesIO()
    made.save(buffer, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _grey(values: Tensor) -> str:
    """A map (H, W) as a picture, its least value black and its largest white."""
    low, high = values.min(), values.max()
    return picture(((values - low) / (high - low).clamp_min(1e-12) * 255).round().to(torch.uint8)[:, :, None])


def _filters(weights: Tensor) -> list[str]:
    """Each filter of (filters, C, H, W): in colour where there are three channels, else the mean over them."""
    if weights.shape[1] != 3:
        return [_grey(one.mean(0)) for one in weights]
    low, high = weights.amin((1, 2, 3), keepdim=True), weights.amax((1, 2, 3), keepdim=True)
    pixels = ((weights - low) / (high - low).clamp_min(1e-12) * 255).round().to(torch.uint8)
    return [picture(one) for one in pixels.permute(0, 2, 3, 1)]


def _maps(output: Tensor) -> list[str]:
    """The strongest maps of (C, H, W), in their order."""
    strongest = output.amax((1, 2)).argsort(descending=True)[:MAPS_SHOWN].sort().values
    return [_grey(one) for one in output[strongest]]


def _shaded(confusion: Tensor) -> list[list[tuple[int, float]]]:
    """Counts, and how dark each is, from 0 to 1: by the share of its row."""
    shares = confusion / confusion.sum(1, keepdim=True).clamp_min(1)
    return [
        [(count, share**0.5) for count, share in zip(counts, row, strict=True)]
        for counts, row in zip(confusion.tolist(), shares.tolist(), strict=True)
    ]


# --- charts ---


def _curves(history: Sequence[dict[str, Any]]) -> str:
    """Loss, accuracy and learning rate over the epochs."""
    figure = Figure(figsize=(10, 3.2), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    epochs = [line["step"] * line["epochs"] / line["steps"] for line in history]
    for axes, name in ((left, "loss"), (middle, "accuracy"), (right, "learning_rate")):
        axes.plot(epochs, [line[name] for line in history], color="#3b82f6", linewidth=1.5, label="training")
        axes.set(title=name.replace("_", " "), xlabel="epoch")
    judged = [line for line in history if line["validation"] is not None]
    if judged:
        middle.plot(
            [line["epoch"] for line in judged],
            [line["validation"] for line in judged],
            color="#f59e0b",
            marker="o",
            markersize=3,
            label="validation",
        )
        middle.legend(frameon=False, labelcolor=INK)
    middle.yaxis.set_major_formatter(mpl.ticker.PercentFormatter(1.0, decimals=None))
    return _svg(figure, left, middle, right)


def _reliability(evaluation: Evaluation) -> str:
    """Accuracy over confidence: on the diagonal the network is as sure as it should be."""
    figure = Figure(figsize=(3.6, 3.2), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color=INK, linewidth=0.8, linestyle=":")
    bins = evaluation.bins
    axes.plot([b.confidence for b in bins], [b.accuracy for b in bins], color="#3b82f6", marker="o", markersize=4)
    axes.set(xlabel="confidence", ylabel="accuracy", xlim=(0, 1.02), ylim=(0, 1.02))
    return _svg(figure, axes)


def _svg(figure: Figure, *every: Axes) -> str:
    """The figure for the page: no background, its lines and letters in the page's colour."""
    for axes in every:
        axes.set_facecolor("none")
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(INK)
        axes.tick_params(colors=INK, labelsize=8)
        for text in (axes.title, axes.xaxis.label, axes.yaxis.label):
            text.set_color(INK)
            text.set_fontsize(9)
    buffer = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "report"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    drawn = buffer.getvalue()
    return drawn[drawn.index("<svg") :].replace(INK, "currentColor")
