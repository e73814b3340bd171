"""Metrics of predictions by class and confidence, and the training job's metrics from the manifest."""

import json
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import TensorProto
from prometheus_client.parser import text_string_to_metric_families

from tests.support.local_service import LocalService, local_service
from tests.support.models import add_version, identity_model
from tests.support.requests import infer_request, outputs_of
from tests.support.waiting import wait_until

MODEL = "mnist-simplecnn"


def samples(service: LocalService) -> dict[str, dict[tuple[str, ...], float]]:
    """Values by metric name and by label values; the labels model and version are left out.

    A batch is counted after its answers are sent, so this waits until no batch is running.
    """
    wait_until(
        lambda: not any(model.batcher.pending_rows for model in service.server.registry.models()), "batches ended"
    )
    with urllib.request.urlopen(service.server.metrics_url) as response:
        families = text_string_to_metric_families(response.read().decode())
    values: dict[str, dict[tuple[str, ...], float]] = {}
    for family in families:
        for sample in family.samples:
            labels = tuple(value for label, value in sample.labels.items() if label not in ("model", "version"))
            values.setdefault(sample.name, {})[labels] = sample.value
    return values


def test_every_row_is_counted_by_its_predicted_class(
    published: Path, grpc_server: str, test_images: tuple[NDArray[np.uint8], NDArray[np.uint8]]
) -> None:
    images, _ = test_images
    with local_service(published, grpc_server) as service:
        answers = []
        for first, end in ((0, 1), (1, 4), (4, 68), (68, 132), (132, 196), (196, 260), (260, 300)):
            response = service.stub.ModelInfer(infer_request(MODEL, images=images[first:end]))
            answers.append(outputs_of(response)["probabilities"])
        metrics = samples(service)
    probabilities = np.concatenate(answers)
    counts = np.bincount(probabilities.argmax(1), minlength=10)
    assert metrics["inference_predictions_total"] == {(str(digit),): count for digit, count in enumerate(counts)}
    assert metrics["inference_prediction_confidence_count"] == {(): 300}
    assert metrics["inference_prediction_confidence_sum"][()] == pytest.approx(probabilities.max(1).sum(), rel=1e-6)
    assert metrics["inference_prediction_confidence_bucket"][("0.9",)] == (probabilities.max(1) <= 0.9).sum()


def test_the_manifests_test_metrics_are_exported(published: Path) -> None:
    manifest = json.loads((published / MODEL / "1" / "manifest.json").read_text())
    confusion = np.array(manifest["metrics"]["confusion"])
    with local_service(published, "aio") as service:
        metrics = samples(service)
    assert metrics["inference_model_reported_accuracy"] == {(): manifest["metrics"]["test_accuracy"]}
    assert metrics["inference_model_reported_confidence"] == {(): manifest["metrics"]["test_confidence"]}
    assert manifest["metrics"]["test_accuracy"] - 0.1 < manifest["metrics"]["test_confidence"] < 1
    shares = metrics["inference_model_reported_predictions_ratio"]
    assert [shares[(str(digit),)] for digit in range(10)] == pytest.approx(confusion.sum(0) / confusion.sum())


def test_a_model_without_labels_or_manifest_has_no_prediction_metrics(tmp_path: Path) -> None:
    add_version(tmp_path, "same", identity_model(TensorProto.FLOAT, ["N", 3]), config="max_batch_size: 4")
    with local_service(tmp_path, "aio") as service:
        service.stub.ModelInfer(infer_request("same", x=np.ones((1, 3), np.float32)))
        metrics = samples(service)
    assert metrics["inference_rows_total"] == {(): 1}
    assert not any("prediction" in name or "_reported_" in name for name in metrics)
