"""The report, `report.html`: training curves, predictions, confusion matrix, filters and feature maps in one file.

Charts are SVG and images are PNG data URLs, so the page needs no network. Charts follow the page's colours, light or
dark: matplotlib draws with INK, which is replaced by `currentColor`.

Not here: the figures (evaluate.py, run_folder.py), the page's text (report.html.j2).
"""

import base64
import dataclasses
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import matplotlib as mpl
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from training.evaluation.evaluate import Evaluation
from training.experiment import Experiment, repeat_command, reproducibility_settings
from training.networks.classifier import Classifier
from training.networks.layers import layer_summaries

TEMPLATE = Path(__file__).parent / "report.html.j2"
INK = "#010203"
MAX_TRAINING_IMAGES = 40
MAX_TEST_IMAGES = 20  # in each of the two galleries
MAX_FEATURE_MAPS = 16  # of each layer


@dataclasses.dataclass(frozen=True)
class Prediction:
    """A test image and its caption."""

    image: str  # a data URL
    true: str
    predicted: str
    probability: float

    @property
    def wrong(self) -> bool:
        """Whether the prediction is wrong."""
        return self.true != self.predicted


def render(
    experiment: Experiment,
    model: Classifier,
    evaluation: Evaluation,
    metrics: Sequence[dict[str, Any]],
    facts: dict[str, Any],
) -> str:
    """The page. `metrics` are the lines of metrics.jsonl, `facts` those of the manifest."""
    train, test, names = experiment.dataset.train, experiment.dataset.test, experiment.dataset.label_names
    confidence, predicted = evaluation.probabilities.max(1)
    wrong = (predicted != test.labels).nonzero()[:, 0]
    example = int((predicted == test.labels).nonzero()[0, 0]) if len(wrong) < len(test) else 0
    layers = layer_summaries(model.body, model.normalize(test.images[example : example + 1]))

    def predictions(indices: Tensor) -> list[Prediction]:
        return [
            Prediction(data_url(test.images[i]), names[test.labels[i]], names[predicted[i]], float(confidence[i]))
            for i in indices.tolist()
        ]

    first = next(layer for layer in model.body.modules() if isinstance(layer, torch.nn.Conv2d))
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    return environment.from_string(TEMPLATE.read_text()).render(
        title=f"{experiment.name}: {evaluation.accuracy:.2%} of {len(test):,} test images",
        facts=_key_facts(experiment, evaluation, facts),
        training_images=[
            (data_url(train.images[i]), names[train.labels[i]]) for i in range(min(MAX_TRAINING_IMAGES, len(train)))
        ],
        curves=_curves(metrics),
        reliability=_reliability_diagram(evaluation),
        evaluation=evaluation,
        names=names,
        confusion=_shaded(evaluation.confusion),
        classes=list(zip(names, evaluation.precision, evaluation.recall, strict=True)),
        predictions=predictions(torch.linspace(0, len(test) - 1, min(MAX_TEST_IMAGES, len(test))).long()),
        errors=predictions(wrong[confidence[wrong].argsort(descending=True)][:MAX_TEST_IMAGES]),
        error_count=len(wrong),
        test_count=len(test),
        filters=_filters(first.weight.detach()),
        first=first,
        example=data_url(test.images[example]),
        example_label=names[test.labels[example]],
        feature_maps=[
            (layer, _strongest_maps(layer.output[0]))
            for layer in layers
            if layer.output.ndim == 4 and layer.output_shape != "1×1"
        ],
        layers=layers,
        parameters=sum(layer.parameters for layer in layers),
        settings=dataclasses.asdict(experiment.recipe) | reproducibility_settings(experiment.settings),
        command=repeat_command(experiment.settings),
        manifest=json.dumps(facts, indent=2, default=str),
    )


def data_url(image: Tensor) -> str:
    """An image uint8 (H, W, C) as a PNG data URL."""
    pixels = image.numpy()
    png = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    buffer = io.BytesIO()
    png.save(buffer, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _key_facts(experiment: Experiment, evaluation: Evaluation, facts: dict[str, Any]) -> dict[str, str]:
    return {
        "test accuracy": f"{evaluation.accuracy:.2%}",
        "test loss": f"{evaluation.loss:.4f}",
        "data set": experiment.dataset.name,
        "epochs": str(experiment.recipe.epochs),
        "training time": f"{facts['metrics']['training_seconds']:.0f} s",
        "seed": str(experiment.recipe.seed),
        "pooling": experiment.settings.pooling,
    }


def _grey_image(values: Tensor) -> str:
    """Values (H, W) as a grey image: the smallest is black, the largest white."""
    low, high = values.min(), values.max()
    return data_url(((values - low) / (high - low).clamp_min(1e-12) * 255).round().to(torch.uint8)[:, :, None])


def _filters(weights: Tensor) -> list[str]:
    """An image of each filter of (filters, C, H, W): in colour if C is 3, else the mean over the channels."""
    if weights.shape[1] != 3:
        return [_grey_image(weight.mean(0)) for weight in weights]
    low, high = weights.amin((1, 2, 3), keepdim=True), weights.amax((1, 2, 3), keepdim=True)
    pixels = ((weights - low) / (high - low).clamp_min(1e-12) * 255).round().to(torch.uint8)
    return [data_url(pixel) for pixel in pixels.permute(0, 2, 3, 1)]


def _strongest_maps(output: Tensor) -> list[str]:
    """Images of the feature maps of (C, H, W) with the largest values, by channel."""
    strongest = output.amax((1, 2)).argsort(descending=True)[:MAX_FEATURE_MAPS].sort().values
    return [_grey_image(feature_map) for feature_map in output[strongest]]


def _shaded(confusion: Tensor) -> list[list[tuple[int, float]]]:
    """Counts, each with its shade from 0 to 1, which grows with its share of the row."""
    shares = confusion / confusion.sum(1, keepdim=True).clamp_min(1)
    return [
        [(count, share**0.5) for count, share in zip(counts, row, strict=True)]
        for counts, row in zip(confusion.tolist(), shares.tolist(), strict=True)
    ]


# --- charts ---


def _curves(metrics: Sequence[dict[str, Any]]) -> str:
    """Loss, accuracy and learning rate over the epochs."""
    figure = Figure(figsize=(10, 3.2), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    epochs = [line["step"] * line["epochs"] / line["steps"] for line in metrics]
    for axes, name in ((left, "loss"), (middle, "accuracy"), (right, "learning_rate")):
        axes.plot(epochs, [line[name] for line in metrics], color="#3b82f6", linewidth=1.5, label="training")
        axes.set(title=name.replace("_", " "), xlabel="epoch")
    validated = [line for line in metrics if line["validation_accuracy"] is not None]
    if validated:
        middle.plot(
            [line["epoch"] for line in validated],
            [line["validation_accuracy"] for line in validated],
            color="#f59e0b",
            marker="o",
            markersize=3,
            label="validation",
        )
        middle.legend(frameon=False, labelcolor=INK)
    middle.yaxis.set_major_formatter(mpl.ticker.PercentFormatter(1.0, decimals=None))
    return _svg(figure, left, middle, right)


def _reliability_diagram(evaluation: Evaluation) -> str:
    """Accuracy over confidence; a calibrated network lies on the diagonal."""
    figure = Figure(figsize=(3.6, 3.2), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color=INK, linewidth=0.8, linestyle=":")
    bins = evaluation.calibration_bins
    axes.plot([b.confidence for b in bins], [b.accuracy for b in bins], color="#3b82f6", marker="o", markersize=4)
    axes.set(xlabel="confidence", ylabel="accuracy", xlim=(0, 1.02), ylim=(0, 1.02))
    return _svg(figure, axes)


def _svg(figure: Figure, *all_axes: Axes) -> str:
    """The figure as SVG without background; its lines and text take the page's text colour."""
    for axes in all_axes:
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
