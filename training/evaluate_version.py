"""A published version on the test split of any data set with its classes: `--evaluate`.

The graph runs in ONNX Runtime, as in the service, and the pictures of a folder are fitted as the version records.
Nothing is trained, and nothing is written.

Not here: the figures (evaluation/), how a folder is split (data/).
"""

import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from service.pictures.fit import Fit, UnknownFit
from training.data import datasets
from training.data.dataset import Dataset
from training.data.folder.load import PREFIX
from training.errors import TrainingError
from training.evaluation.evaluate import Evaluation, figures
from training.networks.layers import column_widths
from training.publishing.export import runner
from training.publishing.publish import newest_version
from training.settings import Settings

WORST_PAIRS = 5


@dataclass(frozen=True)
class Version:
    """A published version, as far as evaluating it needs."""

    folder: Path
    model: bytes
    labels: tuple[str, ...]
    image_shape: tuple[int, int, int]  # (H, W, C)
    fit: Fit
    dataset: str  # that it was trained on


def evaluate_version(settings: Settings) -> str:
    """Evaluate the version that the settings name on their data set; the figures as text.

    Raises:
        TrainingError: there is no such version, or the data set has other classes or images than it takes.
        DataError: the data set cannot be loaded.
    """
    version = read_version(find_version(settings.evaluate, settings.repository))
    if settings.fit not in ("auto", version.fit.method):
        raise TrainingError(
            f"--fit {settings.fit}: {version.folder} was trained with {version.fit.method}, which is what it is "
            "evaluated with; leave --fit out"
        )
    name = version.dataset if settings.dataset == "auto" else settings.dataset
    if settings.dataset == "auto" and name.startswith(PREFIX):
        raise TrainingError(
            f"{version.folder} was trained on the folder {name.removeprefix(PREFIX)!r}, whose path is not recorded; "
            "give --dataset folder:PATH"
        )
    dataset = datasets.load(
        name, settings.data_dir, version.image_shape, version.fit, skip_unreadable=settings.skip_unreadable, say=print
    )
    classes = _class_ids(version, dataset)
    if dataset.image_shape != version.image_shape:
        expected, found = ("×".join(map(str, shape)) for shape in (version.image_shape, dataset.image_shape))
        raise TrainingError(f"{version.folder} takes images of {expected}; those of {dataset.name} are {found}")
    probabilities = runner(version.model)(dataset.test.images.numpy())
    evaluation = figures(torch.from_numpy(probabilities), classes[dataset.test.labels])
    return f"{version.folder} on {dataset.name}, test split\n{summary(evaluation, version.labels)}"


def find_version(name: str, repository: Path) -> Path:
    """The folder of a version: given as a path, or as NAME or NAME/VERSION in the repository; NAME is its newest.

    Raises:
        TrainingError: there is no such version.
    """
    paths = (Path(name), repository / name)
    for path in paths:
        if (path / "manifest.json").is_file():
            return path
    for path in paths:
        if newest := newest_version(path):
            return path / str(newest)
    raise TrainingError(
        f"--evaluate {name}: no version there, and none of that name in {repository}; "
        "give the folder of a version, such as models/NAME/1"
    )


def read_version(folder: Path) -> Version:
    """Read a version that this job published.

    Raises:
        TrainingError: a file cannot be read, or the graph is not the one that the manifest describes.
    """
    try:
        manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
        model = (folder / "model.onnx").read_bytes()
        height, width, channels = manifest["network"]["image_shape"]
        version = Version(
            folder=folder,
            model=model,
            labels=tuple(manifest["labels"]),
            image_shape=(height, width, channels),
            fit=Fit.from_record(manifest["fit"]),
            dataset=manifest["dataset"]["name"],
        )
        expected = manifest["sha256"]
    except (OSError, ValueError, KeyError, TypeError, UnknownFit) as error:
        raise TrainingError(
            f"{folder} is no version that this job can evaluate ({type(error).__name__}: {error})"
        ) from error
    if (found := hashlib.sha256(model).hexdigest()) != expected:
        raise TrainingError(
            f"{folder / 'model.onnx'} does not match its manifest: expected SHA-256 {expected}, got {found}"
        )
    return version


def summary(evaluation: Evaluation, labels: tuple[str, ...]) -> str:
    """The figures for people: in one line, by class, and the pairs of classes that are confused most."""
    rows = [("class", "images", "precision", "recall")]
    counts = evaluation.confusion.sum(1).tolist()
    for label, count, precision, recall in zip(labels, counts, evaluation.precision, evaluation.recall, strict=True):
        rows.append((label, f"{count:,}", _percent(precision), _percent(recall)))
    widths = column_widths(rows)
    table = ("   ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)
    pairs = [f"{labels[true]} as {labels[predicted]} ({count:,})" for true, predicted, count in worst_pairs(evaluation)]
    return "\n".join(
        [
            f"accuracy {evaluation.accuracy_text}; loss {evaluation.loss:.4f}; "
            f"expected calibration error {evaluation.calibration_error:.2%}",
            *table,
            f"most confused: {', '.join(pairs) or 'none'}",
        ]
    )


def worst_pairs(evaluation: Evaluation) -> list[tuple[int, int, int]]:
    """(true class, predicted class, images) of the most frequent errors, the most frequent first."""
    errors = evaluation.confusion.clone().fill_diagonal_(0)
    found = [(int(true), int(predicted), int(errors[true, predicted])) for true, predicted in errors.nonzero()]
    return sorted(found, key=lambda pair: -pair[2])[:WORST_PAIRS]


def _class_ids(version: Version, dataset: Dataset) -> torch.Tensor:
    """The version's class id of each class of the data set, which may have them in another order or lack some."""
    if unknown := sorted(set(dataset.label_names) - set(version.labels)):
        raise TrainingError(
            f"{dataset.name} has classes that {version.folder} does not know: {', '.join(unknown)}; "
            f"it knows {', '.join(version.labels)}"
        )
    return torch.tensor([version.labels.index(label) for label in dataset.label_names])


def _percent(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.2%}"
