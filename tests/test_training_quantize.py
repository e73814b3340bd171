"""Eight bits: as good, faster where they are made, or not published."""

import dataclasses
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from service.models.loader import EngineOptions, load
from service.models.repository import scan
from tests.support.processes import run_command
from training import export, quantize, sources
from training.networks import NETWORKS, Classifier
from training.quantize import Comparison

COMPARISON = Comparison(0.99, np.zeros((1, 10), np.float32), lost=0.001, speed=1.5, smaller=3.9)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({}, ""),
        ({"lost": 0.00201}, "it loses 0.20 points of accuracy, allowed 0.2"),
        ({"speed": 0.9}, "it is not faster here: 0.90 times the speed of float32"),
        ({"lost": -0.01, "speed": 1.01}, ""),
    ],
)
def test_it_is_worth_having_if_it_is_as_good_and_faster(change: dict[str, Any], says: str) -> None:
    assert dataclasses.replace(COMPARISON, **change).reason_against == says


def test_convolutions_and_products_are_in_eight_bits_and_the_input_is_the_same() -> None:
    sample = sources.load("mnist-sample", Path("unused"))
    model = export.to_onnx(Classifier(NETWORKS["mnist-simplecnn"]).eval(), sample.test.images[:2])
    quantised = quantize.to_int8(model, sample.train.images.numpy())
    graph = onnx.load_from_string(quantised).graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    counts = Counter(node.op_type for node in graph.node)
    assert counts["Conv"] == counts["Gemm"] == 2 and counts["QuantizeLinear"] >= 4
    assert sum(tensor.data_type == onnx.TensorProto.INT8 and len(tensor.dims) > 1 for tensor in weights.values()) == 4
    largest = max(
        np.abs(onnx.numpy_helper.to_array(tensor).astype(int)).max()
        for tensor in weights.values()
        if tensor.data_type == onnx.TensorProto.INT8
    )
    assert largest <= 64, "seven bits, so that no processor overflows"
    assert [tensor.name for tensor in graph.input] == ["images"] and len(quantised) < len(model) / 3
    compared = quantize.compare(model, quantised, sample.test.images.numpy(), sample.test.labels.numpy(), 0.5)
    assert compared.probabilities.shape == (1000, 10) and compared.lost == pytest.approx(0.5 - compared.accuracy)
    np.testing.assert_allclose(compared.probabilities.sum(1), 1, atol=1e-5)


def test_the_command_publishes_it_beside_the_other_or_says_why_not(tmp_path: Path) -> None:
    flags = ["--dataset", "mnist-sample", "--epochs", "2", "--device", "cpu", "--min-accuracy", "0"]
    result = run_command("training", *flags, "--quantize", "int8", "--repository", str(tmp_path))
    assert result.returncode == 0, result.stderr
    said = re.search(r"^int8: test accuracy [\d.]+%, ([\d.]+) times as fast here; (.*)$", result.stdout, re.MULTILINE)
    assert said
    folders = {folder.name: folder for folder in scan(tmp_path)}
    if said[2].startswith("not published: "):
        assert list(folders) == ["mnist-simplecnn"]
        return
    assert list(folders) == ["mnist-simplecnn", "mnist-simplecnn-int8"]
    manifest = json.loads((tmp_path / "mnist-simplecnn-int8" / "1" / "manifest.json").read_text())
    assert manifest["model"] == "mnist-simplecnn-int8" and manifest["quantization"]["speed"] > 1
    assert manifest["quantization"]["float_accuracy"] - manifest["metrics"]["test_accuracy"] <= 0.002
    model = load(folders["mnist-simplecnn-int8"], 1, EngineOptions(["cpu"], 1))
    assert model.verified
    model.batcher.close()
