"""A less accurate or slower 8-bit graph is rejected, and quantized weights have 7 bits."""

import dataclasses
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from service.pictures.fit import DRAWING, Fit
from training.data import datasets
from training.networks.registry import NETWORKS
from training.publishing import export, quantize
from training.publishing.quantize import Comparison

COMPARISON = Comparison(0.99, np.zeros((1, 10), np.float32), accuracy_loss=0.001, speedup=1.5, size_reduction=3.9)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, ""),
        ({"accuracy_loss": 0.00201}, "it loses 0.20 points of accuracy, allowed 0.2"),
        ({"speedup": 0.9}, "it is not faster on this machine: 0.90 times the speed of float32"),
        ({"accuracy_loss": -0.01, "speedup": 1.01}, ""),
    ],
)
def test_a_less_accurate_or_slower_8_bit_graph_is_rejected(change: dict[str, Any], reason: str) -> None:
    assert dataclasses.replace(COMPARISON, **change).reason_to_reject == reason


def test_convolutions_and_matrix_products_have_7_bit_weights_and_input_and_metadata_are_kept() -> None:
    sample = datasets.load("mnist-sample", Path("unused"))
    model = export.to_onnx(NETWORKS["mnist-simplecnn"].classifier().eval(), sample.test.images[:2], Fit(DRAWING))
    quantized = quantize.to_int8(model, sample.train.images.numpy())
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
    compared = quantize.compare(model, quantized, sample.test.images.numpy(), sample.test.labels.numpy(), 0.5)
    assert compared.probabilities.shape == (1000, 10) and compared.accuracy_loss == pytest.approx(
        0.5 - compared.accuracy
    )
    np.testing.assert_allclose(compared.probabilities.sum(1), 1, atol=1e-5)
