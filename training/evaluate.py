"""How good a trained network is, on images that neither training nor the choice of weights has seen.

Owns: the figures. Does not own: pictures of them (report.py), the gate (__main__.py).
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.augment import NUMBERS, Augmentation
from training.data import Part
from training.recipe import predict

# Equal widths of confidence over which calibration is taken.
BINS = 15
# The test images, each changed as far as this says, half of them one way and half the other.
CHANGES = {
    "moved 1 pixel": Augmentation(shift=1),
    "moved 2 pixels": Augmentation(shift=2),
    "turned 10°": Augmentation(degrees=10),
    "turned 20°": Augmentation(degrees=20),
}
# Gaussian noise, its standard deviation as a share of the full range.
NOISES = (0.05, 0.1, 0.2)


@dataclass(frozen=True)
class Bin:
    """The answers of one width of confidence: how many, how sure they are on average, and how many are right."""

    count: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class Evaluation:
    """All figures of one look at the test part. Shares are from 0 to 1."""

    probabilities: Tensor  # (N, classes)
    accuracy: float
    loss: float  # mean negative log-likelihood
    confusion: Tensor  # (classes, classes): true by predicted
    precision: tuple[float, ...]  # of each class: right among those called so; nan if none was
    recall: tuple[float, ...]  # of each class: right among those that are
    bins: tuple[Bin, ...]
    changed: dict[str, float]  # accuracy when the images are changed

    @property
    def calibration_error(self) -> float:
        """Expected calibration error: |confidence − accuracy|, over the bins and weighted by them.

        Source: https://arxiv.org/abs/1706.04599
        """
        total = sum(part.count for part in self.bins)
        return sum(part.count * abs(part.confidence - part.accuracy) for part in self.bins) / total

    @property
    def confidence(self) -> float:
        """Mean of the highest probability."""
        return sum(part.count * part.confidence for part in self.bins) / sum(part.count for part in self.bins)

    def metrics(self) -> dict[str, Any]:
        """The figures as a manifest holds them."""
        return {
            "test_accuracy": self.accuracy,
            "test_loss": round(self.loss, 5),
            "test_confidence": round(self.confidence, 5),
            "calibration_error": round(self.calibration_error, 5),
            "precision": [round(value, 5) for value in self.precision],
            "recall": [round(value, 5) for value in self.recall],
            "confusion": self.confusion.tolist(),
            "test_accuracy_changed": {name: round(value, 5) for name, value in self.changed.items()},
        }


def evaluate(model: nn.Module, test: Part) -> Evaluation:
    """Look at the test part once, and at what becomes of the answers when its images change a little."""
    probabilities = predict(model, test.images)
    classes = probabilities.shape[1]
    predicted = probabilities.argmax(1)
    confusion = torch.bincount(test.labels * classes + predicted, minlength=classes * classes).reshape(classes, classes)
    right = confusion.diagonal().double()
    return Evaluation(
        probabilities=probabilities,
        accuracy=(predicted == test.labels).float().mean().item(),
        loss=F.nll_loss(probabilities.clamp_min(1e-12).log(), test.labels).item(),
        confusion=confusion,
        precision=tuple((right / confusion.sum(0)).tolist()),
        recall=tuple((right / confusion.sum(1)).tolist()),
        bins=_calibration(probabilities, test.labels),
        changed={name: _accuracy(model, images, test.labels) for name, images in _changes(test.images)},
    )


def _calibration(probabilities: Tensor, labels: Tensor) -> tuple[Bin, ...]:
    confidence, predicted = probabilities.max(1)
    right = (predicted == labels).float()
    places = (confidence * BINS).long().clamp_max(BINS - 1)
    return tuple(
        Bin(int(inside.sum()), confidence[inside].mean().item(), right[inside].mean().item())
        for place in range(BINS)
        if (inside := places == place).any()
    )


def _changes(images: Tensor) -> list[tuple[str, Tensor]]:
    numbers = torch.zeros(len(images), NUMBERS)
    numbers[1::2] = 1 - 1e-6  # the other way
    changed = [(name, _pixels(change(images, numbers))) for name, change in CHANGES.items()]
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    return changed + [(f"noise of {share:.0%}", _pixels(images + noise * 255 * share)) for share in NOISES]


def _pixels(values: Tensor) -> Tensor:
    return values.round().clamp(0, 255).to(torch.uint8)


def _accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    return (predict(model, images).argmax(1) == labels).float().mean().item()
