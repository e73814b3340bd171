"""The faster of two 8-bit graphs is chosen, one that is not good enough is rejected, and its weights have 7 bits."""

import dataclasses
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from service.pictures.fit import DRAWING, Fit
from training.data import datasets
from training.data.dataset import Split
from training.networks.registry import NETWORKS
from training.publishing import export, quantize
from training.publishing.quantize import Comparison

COMPARISON = Comparison(
    b"", "int8", accuracy_loss=0.001, speedup=1.5, size_reduction=3.9, images=3000, split="validation"
)
SAMPLE = datasets.load("mnist-sample", Path("unused"))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, ""),
        ({"accuracy_loss": 0.00201}, "it loses 0.20 points of accuracy on 3,000 validation images, allowed 0.2"),
        ({"speedup": 1.09}, "it is not faster on this machine: 1.09 times the speed of float32, needed 1.1"),
        ({"accuracy_loss": -0.01, "speedup": 1.1}, ""),
    ],
)
def test_a_less_accurate_or_slower_8_bit_graph_is_rejected(change: dict[str, Any], reason: str) -> None:
    assert dataclasses.replace(COMPARISON, **change).reason_to_reject == reason


@pytest.fixture(scope="module")
def model() -> bytes:
    """The exported graph of an untrained network."""
    return export.to_onnx(NETWORKS["mnist-simplecnn"].classifier().eval(), SAMPLE.test.images[:2], Fit(DRAWING))


def test_convolutions_and_matrix_products_have_7_bit_weights_and_input_and_metadata_are_kept(model: bytes) -> None:
    quantized = quantize.to_int8(model, SAMPLE.train.images.numpy())
    metadata = {entry.key: entry.value for entry in onnx.load_from_string(quantized).metadata_props}
    assert Fit.from_record(json.loads(metadata["simplecnn.fit"])) == Fit(DRAWING), "the fit of the float32 graph"
    graph = onnx.load_from_string(quantized).graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    counts = Counter(node.op_type for node in graph.node)
    assert counts["Conv"] == counts["Gemm"] == 2 and counts["QuantizeLinear"] >= 4
    assert sum(tensor.data_type == onnx.TensorProto.INT8 and len(tensor.dims) > 1 for tensor in weights.values()) == 4
    largest = max(
        np.abs(onnx.numpy_helper.to_array(tensor).astype(int)).max()
        for tensor in weights.values()
        if tensor.data_type == onnx.TensorProto.INT8
    )
    assert largest <= 64, "processors without VNNI would overflow"
    assert [tensor.name for tensor in graph.input] == ["images"] and len(quantized) < len(model) / 3
    probabilities = export.runner(quantized)(SAMPLE.test.images[:100].numpy())
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-5)


def test_the_first_convolution_can_stay_in_float32(model: bytes) -> None:
    graph = onnx.load_from_string(
        quantize.to_int8(model, SAMPLE.train.images.numpy(), first_convolution="float32")
    ).graph
    weights = {tensor.name: tensor.data_type for tensor in graph.initializer}
    first, second = (node for node in graph.node if node.op_type == "Conv")
    assert weights.get(first.input[1]) == onnx.TensorProto.FLOAT and second.input[1] not in weights


def answers_of(accuracy: dict[bytes, float], monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let graphs have these accuracies on images of class 0; the numbers of images that they ran on."""
    seen: list[int] = []

    def runner(graph: bytes) -> export.Run:
        def run(images: np.ndarray[Any, np.dtype[np.uint8]]) -> np.ndarray[Any, np.dtype[np.float32]]:
            seen.append(len(images))
            wrong = np.arange(len(images)) >= round(accuracy[graph] * len(images))
            return np.stack([~wrong, wrong], 1).astype(np.float32)

        return run

    monkeypatch.setattr(quantize, "runner", runner)
    monkeypatch.setattr(
        quantize, "to_int8", lambda *_, first_convolution: {"int8": b"whole", "float32": b"partly"}[first_convolution]
    )
    return seen


@pytest.mark.parametrize(
    ("whole", "partly", "chosen", "reason"),
    [
        ((0.989, 2.0), (0.99, 1.5), "int8", ""),
        ((0.98, 2.0), (0.99, 1.5), "float32", ""),
        ((0.99, 1.2), (0.99, 1.3), "float32", ""),
        ((0.98, 2.0), (0.99, 1.0), "float32", "it is not faster on this machine: 1.00"),
        ((0.98, 2.0), (0.97, 1.5), "int8", "it loses 1.00 points of accuracy on 2,000 validation images"),
    ],
)
def test_the_faster_of_the_two_8_bit_graphs_that_are_good_enough_is_chosen(
    monkeypatch: pytest.MonkeyPatch, whole: tuple[float, float], partly: tuple[float, float], chosen: str, reason: str
) -> None:
    seen = answers_of({b"f": 0.99, b"whole": whole[0], b"partly": partly[0]}, monkeypatch)
    monkeypatch.setattr(quantize, "_fastest_runs", lambda *_: [1.0, 1 / whole[1], 1 / partly[1]])
    train, validation = zeros(600), zeros(2000)
    best = quantize.best_int8(b"f", train, validation)
    assert best.first_convolution == chosen and best.reason_to_reject.startswith(reason)
    assert bool(best.reason_to_reject) == bool(reason) and seen == [2000] * 3


@pytest.mark.parametrize(("training", "compared"), [(600, 600), (3000, 2488), (30_000, 10_000)])
def test_with_few_validation_images_other_training_images_decide(
    monkeypatch: pytest.MonkeyPatch, training: int, compared: int
) -> None:
    seen = answers_of({b"f": 1.0, b"whole": 1.0, b"partly": 1.0}, monkeypatch)
    monkeypatch.setattr(quantize, "_fastest_runs", lambda *_: [1.0, 0.5, 0.5])
    best = quantize.best_int8(b"f", zeros(training), zeros(999))
    assert (best.split, best.images) == ("training", compared) and seen == [compared] * 3


def zeros(count: int) -> Split:
    """Black images of class 0."""
    return Split(torch.zeros(count, 1, 1, 1, dtype=torch.uint8), torch.zeros(count, dtype=torch.int64))


def test_graphs_are_timed_in_turn_by_their_fastest_runs_until_these_no_longer_improve(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    durations = {b"a": [9.0, 8.0, 3.0, 4.0, 4.0, 4.0], b"b": [5.0, 8.0, 6.0, 4.98, 6.0, 1.0]}
    clock: list[float] = [0.0]
    order: list[bytes] = []

    class Session:
        def __init__(self, graph: bytes) -> None:
            self.graph, self.durations = graph, iter(durations[graph])

        def run(self, *_: Any) -> None:
            order.append(self.graph)
            clock[0] += next(self.durations)

    monkeypatch.setattr(quantize, "TIMED_RUNS", 1)
    monkeypatch.setattr(quantize, "QUIET_ROUNDS", 2)
    monkeypatch.setattr(quantize, "_session", Session)
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    assert quantize._fastest_runs([b"a", b"b"], np.zeros((1, 1, 1, 1), np.uint8)) == pytest.approx([3.0, 4.98])
    assert order == [b"a", b"b"] * 5, "the third round improved; the two after it did not by 1 %"
