"""Evaluation on the test split, which neither training nor the choice of the best epoch uses.

Accuracy, loss, confusion matrix, precision and recall per class, calibration, and accuracy on perturbed images.

Not here: pictures of these figures (report.py), the accuracy gate (experiment.py).
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.data.augment import RANDOM_NUMBERS_PER_IMAGE, Augmentation
from training.data.dataset import Split
from training.networks.classifier import predict

# Calibration bins, of equal width in confidence.
CALIBRATION_BINS = 15
# Each perturbs half of the test images in one direction and half in the other.
PERTURBATIONS = {
    "shifted 1 pixel": Augmentation(shift=1),
    "shifted 2 pixels": Augmentation(shift=2),
    "rotated 10°": Augmentation(degrees=10),
    "rotated 20°": Augmentation(degrees=20),
}
# Standard deviations of Gaussian noise, as fractions of the pixels' full range.
NOISE_LEVELS = (0.05, 0.1, 0.2)


@dataclass(frozen=True)
class CalibrationBin:
    """The predictions whose confidence falls into one bin: their number, mean confidence and accuracy."""

    count: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class Evaluation:
    """The figures of one evaluation. Fractions are from 0 to 1."""

    probabilities: Tensor  # (N, classes)
    accuracy: float
    loss: float  # mean negative log-likelihood
    confusion: Tensor  # (classes, classes): true class by predicted class
    precision: tuple[float, ...]  # of each class; nan if it was never predicted
    recall: tuple[float, ...]  # of each class
    calibration_bins: tuple[CalibrationBin, ...]  # those that are not empty
    perturbed_accuracy: dict[str, float]  # by perturbation

    @property
    def calibration_error(self) -> float:
        """Expected calibration error: |confidence − accuracy| of the bins, weighted by their counts.

        Source: https://arxiv.org/abs/1706.04599
        """
        total = sum(b.count for b in self.calibration_bins)
        return sum(b.count * abs(b.confidence - b.accuracy) for b in self.calibration_bins) / total

    @property
    def confidence(self) -> float:
        """Mean of the highest probability."""
        total = sum(b.count for b in self.calibration_bins)
        return sum(b.count * b.confidence for b in self.calibration_bins) / total

    def metrics(self) -> dict[str, Any]:
        """The figures for the manifest."""
        return {
            "test_accuracy": self.accuracy,
            "test_loss": round(self.loss, 5),
            "test_confidence": round(self.confidence, 5),
            "calibration_error": round(self.calibration_error, 5),
            "precision": [round(value, 5) for value in self.precision],
            "recall": [round(value, 5) for value in self.recall],
            "confusion": self.confusion.tolist(),
            "test_accuracy_perturbed": {name: round(value, 5) for name, value in self.perturbed_accuracy.items()},
        }


def evaluate(model: nn.Module, test: Split) -> Evaluation:
    """Evaluate the model on the test split, and on perturbed copies of its images."""
    probabilities = predict(model, test.images)
    classes = probabilities.shape[1]
    predicted = probabilities.argmax(1)
    confusion = torch.bincount(test.labels * classes + predicted, minlength=classes * classes).reshape(classes, classes)
    correct = confusion.diagonal().double()
    return Evaluation(
        probabilities=probabilities,
        accuracy=(predicted == test.labels).float().mean().item(),
        loss=F.nll_loss(probabilities.clamp_min(1e-12).log(), test.labels).item(),
        confusion=confusion,
        precision=tuple((correct / confusion.sum(0)).tolist()),
        recall=tuple((correct / confusion.sum(1)).tolist()),
        calibration_bins=_calibration_bins(probabilities, test.labels),
        perturbed_accuracy={name: _accuracy(model, images, test.labels) for name, images in _perturbed(test.images)},
    )


def _calibration_bins(probabilities: Tensor, labels: Tensor) -> tuple[CalibrationBin, ...]:
    confidence, predicted = probabilities.max(1)
    correct = (predicted == labels).float()
    bins = (confidence * CALIBRATION_BINS).long().clamp_max(CALIBRATION_BINS - 1)
    return tuple(
        CalibrationBin(int(inside.sum()), confidence[inside].mean().item(), correct[inside].mean().item())
        for index in range(CALIBRATION_BINS)
        if (inside := bins == index).any()
    )


def _perturbed(images: Tensor) -> list[tuple[str, Tensor]]:
    """The images with each perturbation, by its name."""
    numbers = torch.zeros(len(images), RANDOM_NUMBERS_PER_IMAGE)  # 0 is the largest change in one direction
    numbers[1::2] = 1 - 1e-6  # and nearly 1 in the other
    perturbed = [(name, _to_pixels(change(images, numbers))) for name, change in PERTURBATIONS.items()]
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    return perturbed + [(f"noise {level:.0%}", _to_pixels(images + noise * 255 * level)) for level in NOISE_LEVELS]


def _to_pixels(values: Tensor) -> Tensor:
    return values.round().clamp(0, 255).to(torch.uint8)


def _accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    return (predict(model, images).argmax(1) == labels).float().mean().item()
