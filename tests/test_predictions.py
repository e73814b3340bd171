"""What a model says is counted by class and confidence, beside what the job saw on its test set."""

import json
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import TensorProto
from prometheus_client.parser import text_string_to_metric_families

from service.batching.predictions import MAX_COUNTED_CLASSES, TALLY_ROWS, Predictions, predictions_for
from service.core.datatypes import BY_ONNX
from service.core.spec import ModelSpec, TensorSpec
from service.models.repository import ReportedMetrics
from service.pb.model_config_pb2 import ModelConfig
from tests.support import LocalService, add_version, identity_model, infer_request, local_service, outputs_of

MODEL = "mnist-simplecnn"


def samples(service: LocalService) -> dict[str, dict[tuple[str, ...], float]]:
    """Values by metric and by the values of its labels beside model and version."""
    with urllib.request.urlopen(service.server.metrics_url) as response:
        families = text_string_to_metric_families(response.read().decode())
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in families:
        for sample in family.samples:
            rest = tuple(value for label, value in sample.labels.items() if label not in ("model", "version"))
            found.setdefault(sample.name, {})[rest] = sample.value
    return found


def test_every_row_is_counted_by_the_class_that_was_answered(
    published: Path, grpc_server: str, test_images: tuple[NDArray[np.uint8], NDArray[np.uint8]]
) -> None:
    images, _ = test_images
    with local_service(published, grpc_server) as service:
        answers = []
        for first, end in ((0, 1), (1, 4), (4, 68), (68, 132), (132, 196), (196, 260), (260, 300)):
            response = service.stub.ModelInfer(infer_request(MODEL, images=images[first:end]))
            answers.append(outputs_of(response)["probabilities"])
        seen = samples(service)
    probabilities = np.concatenate(answers)
    counts = np.bincount(probabilities.argmax(1), minlength=10)
    assert seen["inference_predictions_total"] == {(str(digit),): count for digit, count in enumerate(counts)}
    assert seen["inference_prediction_confidence_count"] == {(): 300}
    assert seen["inference_prediction_confidence_sum"][()] == pytest.approx(probabilities.max(1).sum(), rel=1e-6)
    assert seen["inference_prediction_confidence_bucket"][("0.9",)] == (probabilities.max(1) <= 0.9).sum()


def test_what_the_manifest_says_of_the_test_set_stands_beside_it(published: Path) -> None:
    manifest = json.loads((published / MODEL / "1" / "manifest.json").read_text())
    confusion = np.array(manifest["metrics"]["confusion"])
    with local_service(published, "aio") as service:
        seen = samples(service)
    assert seen["inference_model_reported_accuracy"] == {(): manifest["metrics"]["test_accuracy"]}
    assert seen["inference_model_reported_confidence"] == {(): manifest["metrics"]["test_confidence"]}
    assert manifest["metrics"]["test_accuracy"] - 0.1 < manifest["metrics"]["test_confidence"] < 1
    shares = seen["inference_model_reported_predictions_ratio"]
    assert [shares[(str(digit),)] for digit in range(10)] == pytest.approx(confusion.sum(0) / confusion.sum())


def test_a_model_without_labels_or_manifest_has_none_of_these(tmp_path: Path) -> None:
    add_version(tmp_path, "same", identity_model(TensorProto.FLOAT, ["N", 3]), config="max_batch_size: 4")
    with local_service(tmp_path, "aio") as service:
        service.stub.ModelInfer(infer_request("same", x=np.ones((1, 3), np.float32)))
        seen = samples(service)
    assert seen["inference_rows_total"] == {(): 1}
    assert not any("prediction" in name or "_test_" in name for name in seen)


def spec(shape: tuple[int, ...], labels: int, *, kind: str = "tensor(float)", max_batch_size: int = 8) -> ModelSpec:
    output = TensorSpec("y", BY_ONNX[kind], shape, tuple(f"label {index}" for index in range(labels)))
    return ModelSpec("m", 1, (), (TensorSpec("other", BY_ONNX[kind], (4,)), output), max_batch_size, ModelConfig())


def test_only_outputs_that_say_classes_are_counted() -> None:
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


def test_padding_is_no_prediction_and_what_is_no_number_spoils_nothing() -> None:
    predictions = Predictions(0, ["a", "b"])
    predictions.add([np.array([[0.9, 0.1], [np.nan, 0.2], [0.3, 0.7], [0.3, 0.7]], np.float32)], rows=3)
    counts, buckets, total = predictions.read()
    assert counts == {"a": 1, "b": 1}
    assert total == pytest.approx(1.6) and buckets[-1] == ("+Inf", 2.0)


def test_answers_of_another_shape_are_left_out() -> None:
    predictions = Predictions(0, ["a", "b"])
    for shape in ((3, 4), (3,), (3, 2, 1), ()):
        predictions.add([np.ones(shape, np.float32)], rows=3)
    assert predictions.read()[0] == {"a": 0, "b": 0}


def test_classes_of_one_name_are_counted_together() -> None:
    predictions = Predictions(0, ["crane", "crane", "other"])
    predictions.add([np.eye(3, dtype=np.float32)], rows=3)
    assert predictions.read()[0] == {"crane": 2, "other": 1}


def test_what_is_kept_between_two_readings_is_bounded() -> None:
    predictions = Predictions(0, ["a", "b"])
    for _ in range(10 * TALLY_ROWS):
        predictions.add([np.array([[0.4, 0.6]], np.float32)], rows=1)
        assert len(predictions._kept) < TALLY_ROWS
    assert predictions.read()[0] == {"a": 0, "b": 10 * TALLY_ROWS}


def test_shares_come_from_the_columns_of_the_confusion_matrix() -> None:
    assert ReportedMetrics(confusion=[[3, 1], [2, 4]]).shares == [0.5, 0.5]
    assert ReportedMetrics().shares == ReportedMetrics(confusion=[[0, 0], [0, 0]]).shares == []
