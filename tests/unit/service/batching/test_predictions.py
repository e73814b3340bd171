"""Predictions are counted by class and confidence, and compared with the shares on the test set."""

import numpy as np
import pytest

from service.batching.predictions import MAX_COUNTED_CLASSES, TALLY_ROWS, Predictions, predictions_for
from service.core.datatypes import BY_ONNX
from service.core.spec import ModelSpec, TensorSpec
from service.models.repository.manifest import ReportedMetrics
from service.pb.model_config_pb2 import ModelConfig


def spec(shape: tuple[int, ...], labels: int, *, kind: str = "tensor(float)", max_batch_size: int = 8) -> ModelSpec:
    output = TensorSpec("y", BY_ONNX[kind], shape, tuple(f"label {index}" for index in range(labels)))
    return ModelSpec("m", 1, (), (TensorSpec("other", BY_ONNX[kind], (4,)), output), max_batch_size, ModelConfig())


def test_only_outputs_of_labelled_classes_are_counted() -> None:
    found = predictions_for(spec((3,), 3))
    assert found is not None and found.labels == ["label 0", "label 1", "label 2"]
    found = predictions_for(spec((3,), 2))
    assert found is not None and found.labels == ["label 0", "label 1", "2"]
    for other in (
        spec((3,), 0),
        spec((-1,), 3),
        spec((2, 3), 3),
        spec((3,), 3, kind="tensor(int64)"),
        spec((3,), 3, max_batch_size=0),
        spec((MAX_COUNTED_CLASSES + 1,), 3),
    ):
        assert predictions_for(other) is None


def test_padding_and_nan_are_not_counted() -> None:
    predictions = Predictions(0, ["a", "b"])
    predictions.add([np.array([[0.9, 0.1], [np.nan, 0.2], [0.3, 0.7], [0.3, 0.7]], np.float32)], rows=3)
    counts, buckets, total = predictions.read()
    assert counts == {"a": 1, "b": 1}
    assert total == pytest.approx(1.6) and buckets[-1] == ("+Inf", 2.0)


def test_outputs_of_another_shape_are_not_counted() -> None:
    predictions = Predictions(0, ["a", "b"])
    for shape in ((3, 4), (3,), (3, 2, 1), ()):
        predictions.add([np.ones(shape, np.float32)], rows=3)
    assert predictions.read()[0] == {"a": 0, "b": 0}


def test_classes_with_the_same_label_are_counted_together() -> None:
    predictions = Predictions(0, ["crane", "crane", "other"])
    predictions.add([np.eye(3, dtype=np.float32)], rows=3)
    assert predictions.read()[0] == {"crane": 2, "other": 1}


def test_the_outputs_that_are_kept_uncounted_are_bounded() -> None:
    predictions = Predictions(0, ["a", "b"])
    for _ in range(10 * TALLY_ROWS):
        predictions.add([np.array([[0.4, 0.6]], np.float32)], rows=1)
        assert len(predictions._uncounted) < TALLY_ROWS
    assert predictions.read()[0] == {"a": 0, "b": 10 * TALLY_ROWS}


def test_shares_of_predictions_are_the_columns_of_the_confusion_matrix() -> None:
    assert ReportedMetrics(confusion=[[3, 1], [2, 4]]).shares == [0.5, 0.5]
    assert ReportedMetrics().shares == ReportedMetrics(confusion=[[0, 0], [0, 0]]).shares == []
