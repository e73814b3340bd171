"""The evaluation's figures are correct: accuracy with its standard error, loss and calibration error."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from training.data.dataset import Split
from training.evaluation import evaluate
from training.evaluation.evaluate import CALIBRATION_BINS, CalibrationBin, Evaluation


class FixedClassifier(nn.Module):
    """Returns given probabilities: an image's first pixel is the index of its row."""

    def __init__(self, rows: list[list[float]]) -> None:
        super().__init__()
        self.rows = torch.tensor(rows)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.rows[images[:, 0, 0, 0].long().clamp_max(len(self.rows) - 1)]


@pytest.fixture
def evaluation() -> Evaluation:
    """An evaluation of five images of three classes; the last class is never predicted."""
    images = torch.zeros(5, 8, 8, 1, dtype=torch.uint8)
    images[:, 0, 0, 0] = torch.arange(5)
    rows = [[0.9, 0.1, 0.0], [0.6, 0.4, 0.0], [0.7, 0.3, 0.0], [0.2, 0.8, 0.0], [0.0, 1.0, 0.0]]
    return evaluate.evaluate(FixedClassifier(rows), Split(images, torch.tensor([0, 0, 1, 1, 2])))


def test_accuracy_precision_recall_and_confusion_matrix_are_correct(evaluation: Evaluation) -> None:
    assert evaluation.confusion.tolist() == [[2, 0, 0], [1, 1, 0], [0, 1, 0]]
    assert evaluation.accuracy == pytest.approx(0.6)
    assert evaluation.precision[:2] == pytest.approx((2 / 3, 1 / 2)) and np.isnan(evaluation.precision[2])
    assert evaluation.recall == pytest.approx((1, 1 / 2, 0))


def test_the_accuracy_is_told_with_its_binomial_standard_error(evaluation: Evaluation) -> None:
    assert evaluation.accuracy_error == pytest.approx((0.6 * 0.4 / 5) ** 0.5)
    assert evaluation.accuracy_text == "60.00% ± 21.91 on 5 images"


def test_the_metrics_are_strict_json_although_a_class_was_never_predicted(evaluation: Evaluation) -> None:
    metrics = evaluation.metrics()
    assert json.loads(json.dumps(metrics, allow_nan=False)) == metrics
    assert metrics["precision"] == [0.66667, 0.5, None] and metrics["test_accuracy"] == 3 / 5


def test_the_loss_is_the_mean_negative_log_likelihood_of_the_true_class(evaluation: Evaluation) -> None:
    expected = -np.log([0.9, 0.6, 0.3, 0.8, 1e-12]).mean()
    assert evaluation.loss == pytest.approx(expected, rel=1e-5)


def test_the_calibration_error_is_the_mean_gap_between_confidence_and_accuracy(evaluation: Evaluation) -> None:
    gaps = [0.9 - 1, 0.6 - 1, 0.7 - 0, 0.8 - 1, 1.0 - 0]  # each image falls into a bin of its own
    assert evaluation.calibration_error == pytest.approx(sum(map(abs, gaps)) / 5, rel=1e-5)
    assert len(evaluation.calibration_bins) == 5
    bins = (CalibrationBin(10, 0.8, 0.8), CalibrationBin(30, 0.9, 0.7))
    two_bins = Evaluation(**{**vars(evaluation), "calibration_bins": bins})
    assert two_bins.calibration_error == pytest.approx(30 / 40 * 0.2)
    assert CALIBRATION_BINS == 15
