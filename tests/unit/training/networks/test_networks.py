"""The networks: their layers, normalization and layer table, and the formula of every kind of pooling."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.support.training import random_images
from training import summary
from training.networks.layers import layer_summaries
from training.networks.pooling import KINDS, AvgTopKPool, LpPool, MixedPool, Pooling
from training.networks.registry import NETWORKS

# By network: its layers, their output shapes for max pooling (which show the padding), and its number of parameters.
EXPECTED = {
    "mnist-simplecnn": (
        "Conv2d ReLU MaxPool2d Conv2d ReLU MaxPool2d Flatten Linear ReLU Dropout Linear",
        "32×28×28 32×28×28 32×14×14 64×14×14 64×14×14 64×7×7 3136 128 128 128 10",
        421_642,
    ),
    "mnist-cnn": (
        "Conv2d MaxPool2d ReLU Conv2d MaxPool2d ReLU Flatten Linear ReLU Linear LogSoftmax",
        "32×28×28 32×14×14 32×14×14 64×14×14 64×7×7 64×7×7 3136 128 128 10 10",
        421_642,
    ),
    "cifar10-cnn": (
        "Conv2d ReLU MaxPool2d Conv2d ReLU MaxPool2d Flatten Linear ReLU Linear",
        "32×30×30 32×30×30 32×15×15 64×13×13 64×13×13 64×6×6 2304 64 64 10",
        167_562,
    ),
    "cifar10-lenet": (
        "Conv2d ReLU MaxPool2d Conv2d ReLU MaxPool2d Flatten Linear ReLU Linear ReLU Linear",
        "6×28×28 6×28×28 6×14×14 16×10×10 16×10×10 16×5×5 400 120 120 84 84 10",
        62_006,
    ),
}


@pytest.mark.parametrize("name", list(EXPECTED))
def test_a_network_has_the_layers_shapes_and_parameters_of_its_source(name: str) -> None:
    kinds, shapes, parameters = EXPECTED[name]
    model = NETWORKS[name].classifier()
    layers = layer_summaries(model.body, model.normalize(random_images(NETWORKS[name], 2)))
    assert " ".join(type(layer).__name__ for layer in model.body.children()) == kinds
    assert " ".join(layer.output_shape for layer in layers) == shapes
    assert sum(layer.parameters for layer in layers) == parameters


def test_networks_have_the_accuracies_of_their_sources_and_teachers_have_none() -> None:
    assert {name: network.reference_accuracy for name, network in NETWORKS.items()} == {
        "mnist-simplecnn": 0.9923, "mnist-cnn": 0.9901, "cifar10-cnn": 0.7040, "cifar10-lenet": None,
        "mnist-teacher": None, "cifar10-teacher": None,
    }  # fmt: skip


def test_simplecnn_has_a_dropout_of_one_half_and_cifar10_cnn_is_initialized_as_in_keras() -> None:
    assert [
        layer.p for layer in NETWORKS["mnist-simplecnn"].classifier().body.children() if isinstance(layer, nn.Dropout)
    ] == [0.5]
    for layer in NETWORKS["cifar10-cnn"].classifier().body.children():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            fan_in, fan_out = nn.init._calculate_fan_in_and_fan_out(layer.weight)
            limit = (6 / (fan_in + fan_out)) ** 0.5
            assert 0.95 * limit < layer.weight.abs().max() <= limit
            assert layer.bias is not None and not layer.bias.any()


@pytest.mark.parametrize(
    ("name", "mean", "std"),
    [("mnist-simplecnn", 0.5, 0.5), ("mnist-cnn", 0.1307, 0.3081), ("cifar10-cnn", 0, 1), ("cifar10-lenet", 0.5, 0.5)],
)
def test_the_classifier_normalizes_raw_pixels_and_returns_probabilities(name: str, mean: float, std: float) -> None:
    model = NETWORKS[name].classifier().eval()
    images = random_images(NETWORKS[name], 3)
    expected = (images.permute(0, 3, 1, 2) / 255 - mean) / std
    torch.testing.assert_close(model.normalize(images), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(model(images).sum(1), torch.ones(3))


WINDOWS = torch.tensor([[[[1.0, 2, 5, 0], [3, 4, 0, 0], [0, 0, 2, 2], [0, 0, 2, 2]]]])


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("max", [[4, 5], [0, 2]]),
        ("avg", [[2.5, 1.25], [0, 2]]),
        ("lp", [[30**0.5, 5], [0, 4]]),
        ("mixed", [[3.25, 3.125], [0, 2]]),
        ("avg-topk", [[3.5, 2.5], [0, 2]]),
    ],
)
def test_each_kind_of_pooling_computes_its_formula(kind: str, expected: list[list[float]]) -> None:
    pooled = Pooling(kind).layer()(WINDOWS)[0, 0]
    torch.testing.assert_close(pooled, torch.tensor(expected, dtype=torch.float32), atol=2e-6, rtol=0)


def test_global_pooling_leaves_one_value_per_feature_map() -> None:
    pooling = Pooling("global")
    assert pooling.last_layer()(WINDOWS).flatten().tolist() == [WINDOWS.mean().item()]
    torch.testing.assert_close(pooling.layer()(WINDOWS), F.max_pool2d(WINDOWS, 2))
    assert pooling.output_area(7) == 1 and Pooling("max").output_area(7) == 49


@pytest.mark.parametrize("size", range(2, 12))
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "global"])
def test_the_output_size_of_pooling_follows_its_formula(kind: str, size: int) -> None:
    assert Pooling(kind).layer()(torch.rand(1, 2, size, size)).shape == (1, 2, *[(size - 2) // 2 + 1] * 2)


def test_avg_topk_is_max_pooling_for_k_1_and_average_pooling_for_k_4() -> None:
    x = torch.randn(3, 4, 9, 9)
    torch.testing.assert_close(AvgTopKPool(1)(x), F.max_pool2d(x, 2))
    torch.testing.assert_close(AvgTopKPool(4)(x), F.avg_pool2d(x, 2))
    assert (AvgTopKPool(2)(x) >= AvgTopKPool(3)(x)).all()


def test_lp_pooling_has_a_finite_gradient_at_zero_and_mixed_pooling_learns_its_weight() -> None:
    zeros = torch.zeros(1, 1, 2, 2, requires_grad=True)
    LpPool()(zeros).sum().backward()
    assert zeros.grad is not None and zeros.grad.isfinite().all()
    mixed = MixedPool()
    mixed(WINDOWS).sum().backward()
    assert mixed.weight.grad is not None and mixed.weight.grad != 0


def test_the_layer_table_has_a_header_a_line_per_layer_and_the_total() -> None:
    lines = summary.network_summary("cifar10-lenet", "max").splitlines()
    assert [line.split() for line in lines[:2]] == [
        ["layer", "output", "parameters"],
        ["Conv", "3→6,", "5×5", "6×28×28", "456"],
    ]
    assert (
        len(lines) == 14 and lines[-1].split() == ["total", "62,006"] and all(line == line.rstrip() for line in lines)
    )
