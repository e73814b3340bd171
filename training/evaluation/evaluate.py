"""Evaluation on the test split, which neither training nor the choice of the best epoch uses.

Accuracy with its standard error, loss, confusion matrix, precision and recall per class, and calibration.

Not here: accuracy on perturbed images (robustness.py), pictures of these figures (report/), the accuracy gate
(experiment.py).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.data.dataset import Split
from training.networks.classifier import predict

# Calibration bins, of equal width in confidence.
CALIBRATION_BINS = 15


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
    recall: tuple[float, ...]  # of each class; nan if no image has it
    calibration_bins: tuple[CalibrationBin, ...]  # those that are not empty
    perturbed_accuracy: Mapping[str, float] = field(default_factory=dict)  # by perturbation; see robustness.py

    @property
    def accuracy_error(self) -> float:
        """The accuracy's standard error, from 0 to 1: the images are a sample, each right or wrong (binomial)."""
        return math.sqrt(self.accuracy * (1 - self.accuracy) / len(self.probabilities))

    @property
    def accuracy_text(self) -> str:
        """The accuracy and its standard error for people, in percent."""
        return f"{self.accuracy:.2%} ± {100 * self.accuracy_error:.2f} on {len(self.probabilities):,} images"

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
            "test_accuracy_error": round(self.accuracy_error, 5),
            "test_loss": round(self.loss, 5),
            "test_confidence": round(self.confidence, 5),
            "calibration_error": round(self.calibration_error, 5),
            "precision": _rounded(self.precision),
            "recall": _rounded(self.recall),
            "confusion": self.confusion.tolist(),
            "test_accuracy_perturbed": {name: round(value, 5) for name, value in self.perturbed_accuracy.items()},
        }


def evaluate(model: nn.Module, test: Split) -> Evaluation:
    """Evaluate the model on the test split."""
    return figures(predict(model, test.images), test.labels)


def figures(probabilities: Tensor, labels: Tensor) -> Evaluation:
    """The figures of probabilities float32 (N, classes), from any network, against the true labels int64 (N,)."""
    classes = probabilities.shape[1]
    predicted = probabilities.argmax(1)
    confusion = torch.bincount(labels * classes + predicted, minlength=classes * classes).reshape(classes, classes)
    correct = confusion.diagonal().double()
    return Evaluation(
        probabilities=probabilities,
        accuracy=int(correct.sum()) / len(labels),
        loss=F.nll_loss(probabilities.clamp_min(1e-12).log(), labels).item(),
        confusion=confusion,
        precision=tuple((correct / confusion.sum(0)).tolist()),
        recall=tuple((correct / confusion.sum(1)).tolist()),
        calibration_bins=_calibration_bins(probabilities, labels),
    )


def _rounded(values: Sequence[float]) -> list[float | None]:
    """The values for JSON, which has no nan: None stands for it."""
    return [None if math.isnan(value) else round(value, 5) for value in values]


def _calibration_bins(probabilities: Tensor, labels: Tensor) -> tuple[CalibrationBin, ...]:
    confidence, predicted = probabilities.max(1)
    correct = (predicted == labels).float()
    bins = (confidence * CALIBRATION_BINS).long().clamp_max(CALIBRATION_BINS - 1)
    return tuple(
        CalibrationBin(int(inside.sum()), confidence[inside].mean().item(), correct[inside].mean().item())
        for index in range(CALIBRATION_BINS)
        if (inside := bins == index).any()
    )
