"""Images of the data set: to train on, as augmented, and as predicted.

Not here: filters and feature maps (learned.py).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from training.data.augment import NO_AUGMENTATION, RANDOM_NUMBERS_PER_IMAGE
from training.report.pictures import data_url
from training.report.section import CannotDraw, ReportInput

MAX_TRAINING_IMAGES = 40
MAX_TEST_IMAGES = 20  # in each of the two galleries
AUGMENTATIONS = 8  # of one image
AUGMENTED_IMAGES = 2


@dataclass(frozen=True)
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


def training_images(report: ReportInput) -> Mapping[str, Any]:
    """Images of all classes in turn."""
    training = report.experiment.training
    chosen = balanced(training.labels, MAX_TRAINING_IMAGES)
    return {"images": [(data_url(training.images[i]), report.names[training.labels[i]]) for i in chosen.tolist()]}


def augmented_images(report: ReportInput) -> Mapping[str, Any]:
    """A few training images, each with what the recipe's augmentation makes of it."""
    augmentation = report.experiment.recipe.augmentation
    if augmentation == NO_AUGMENTATION:
        raise CannotDraw("The recipe trains on the images as they are.")
    training = report.experiment.training
    random = torch.Generator().manual_seed(report.experiment.recipe.seed)
    rows = []
    for index in balanced(training.labels, AUGMENTED_IMAGES).tolist():
        image, label = training.images[index], report.names[training.labels[index]]
        numbers = torch.rand(AUGMENTATIONS, RANDOM_NUMBERS_PER_IMAGE, generator=random)
        changed = augmentation(image[None].expand(AUGMENTATIONS, -1, -1, -1), numbers)
        pixels = changed.round().clamp(0, 255).to(torch.uint8)
        rows.append((label, data_url(image), [data_url(one) for one in pixels]))
    return {"rows": rows}


def predictions(report: ReportInput) -> Mapping[str, Any]:
    """Test images of all classes in turn, with their predictions."""
    chosen = balanced(report.experiment.dataset.test.labels, MAX_TEST_IMAGES)
    return {"predictions": _predictions(report, chosen)}


def errors(report: ReportInput) -> Mapping[str, Any]:
    """The misclassified test images with the highest probability of the wrong class."""
    wrong = (report.predicted != report.experiment.dataset.test.labels).nonzero()[:, 0]
    most_confident = wrong[report.confidence[wrong].argsort(descending=True)][:MAX_TEST_IMAGES]
    return {
        "predictions": _predictions(report, most_confident),
        "errors": len(wrong),
        "images": len(report.experiment.dataset.test),
    }


def balanced(labels: Tensor, count: int) -> Tensor:
    """Indices of `count` images, of one class after the other; of more classes than that, evenly chosen ones."""
    of_class = [(labels == label).nonzero()[:, 0] for label in labels.unique().tolist()]
    if len(of_class) > count:
        of_class = [of_class[index] for index in torch.linspace(0, len(of_class) - 1, count).long().tolist()]
    rounds = max(map(len, of_class), default=0)
    chosen = [int(indices[turn]) for turn in range(min(rounds, count)) for indices in of_class if turn < len(indices)]
    return torch.tensor(chosen[:count], dtype=torch.long)


def _predictions(report: ReportInput, indices: Tensor) -> list[Prediction]:
    test, names = report.experiment.dataset.test, report.names
    return [
        Prediction(
            image=data_url(test.images[index]),
            true=names[test.labels[index]],
            predicted=names[report.predicted[index]],
            probability=float(report.confidence[index]),
        )
        for index in indices.tolist()
    ]
