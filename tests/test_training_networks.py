"""The networks are the table's, layer for layer, with any pooling."""

import numpy as np
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from training import export, layers, networks
from training.networks import NETWORKS, Classifier
from training.pooling import KINDS, AvgTopKPool, LpPool, MixedPool, Pooling

# By name: what the layers are, and all shapes of parameters. Convolutions without padding are said by output sizes.
TABLE = {
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


def raw(network: networks.Network, count: int) -> torch.Tensor:
    random = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, *network.image), dtype=torch.uint8, generator=random)


@pytest.mark.parametrize("name", list(TABLE))
def test_a_network_is_the_tables_layer_for_layer(name: str) -> None:
    kinds, sizes, parameters = TABLE[name]
    model = Classifier(NETWORKS[name])
    found = layers.layers_of(model.body, model.prepare(raw(NETWORKS[name], 2)))
    assert " ".join(type(layer).__name__ for layer in model.body) == kinds
    assert " ".join(layer.size for layer in found) == sizes
    assert sum(layer.parameters for layer in found) == parameters


def test_every_network_of_the_table_is_there_with_what_was_reported() -> None:
    assert {name: network.reported for name, network in NETWORKS.items()} == {
        "mnist-simplecnn": 0.9923, "mnist-cnn": 0.9901, "cifar10-cnn": 0.7040, "cifar10-lenet": None,
    }  # fmt: skip


def test_simplecnn_drops_half_and_cifar10_cnn_begins_as_keras_does() -> None:
    assert [layer.p for layer in Classifier(NETWORKS["mnist-simplecnn"]).body if isinstance(layer, nn.Dropout)] == [0.5]
    for layer in Classifier(NETWORKS["cifar10-cnn"]).body:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            fan_in, fan_out = nn.init._calculate_fan_in_and_fan_out(layer.weight)
            limit = (6 / (fan_in + fan_out)) ** 0.5
            assert 0.95 * limit < layer.weight.abs().max() <= limit
            assert layer.bias is not None and not layer.bias.any()


@pytest.mark.parametrize(
    ("name", "mean", "std"),
    [("mnist-simplecnn", 0.5, 0.5), ("mnist-cnn", 0.1307, 0.3081), ("cifar10-cnn", 0, 1), ("cifar10-lenet", 0.5, 0.5)],
)
def test_raw_pixels_are_scaled_as_the_table_says_and_answers_are_probabilities(
    name: str, mean: float, std: float
) -> None:
    model = Classifier(NETWORKS[name]).eval()
    images = raw(NETWORKS[name], 3)
    expected = (images.permute(0, 3, 1, 2) / 255 - mean) / std
    torch.testing.assert_close(model.prepare(images), expected, atol=1e-5, rtol=0)
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
def test_pooling_does_to_a_window_what_it_says(kind: str, expected: list[list[float]]) -> None:
    pooled = Pooling(kind).between()(WINDOWS)[0, 0]
    torch.testing.assert_close(pooled, torch.tensor(expected, dtype=torch.float32), atol=2e-6, rtol=0)


def test_global_pooling_is_one_value_a_feature_map() -> None:
    pool = Pooling("global")
    assert pool.last()(WINDOWS).flatten().tolist() == [WINDOWS.mean().item()]
    torch.testing.assert_close(pool.between()(WINDOWS), F.max_pool2d(WINDOWS, 2))
    assert pool.area(7) == 1 and Pooling("max").area(7) == 49


@pytest.mark.parametrize("size", range(2, 12))
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "global"])
def test_pooled_sizes_follow_the_formula(kind: str, size: int) -> None:
    assert Pooling(kind).between()(torch.rand(1, 2, size, size)).shape == (1, 2, *[(size - 2) // 2 + 1] * 2)


def test_avg_topk_lies_between_average_and_maximum_and_is_them_at_its_ends() -> None:
    x = torch.randn(3, 4, 9, 9)
    torch.testing.assert_close(AvgTopKPool(1)(x), F.max_pool2d(x, 2))
    torch.testing.assert_close(AvgTopKPool(4)(x), F.avg_pool2d(x, 2))
    assert (AvgTopKPool(2)(x) >= AvgTopKPool(3)(x)).all()


def test_lp_pooling_has_a_gradient_where_all_is_zero_and_mixed_learns_its_weight() -> None:
    zeros = torch.zeros(1, 1, 2, 2, requires_grad=True)
    LpPool()(zeros).sum().backward()
    assert zeros.grad is not None and zeros.grad.isfinite().all()
    mixed = MixedPool()
    mixed(WINDOWS).sum().backward()
    assert mixed.weight.grad is not None and mixed.weight.grad != 0


@pytest.mark.parametrize(
    ("name", "pool"), [(name, "max") for name in NETWORKS] + [("cifar10-cnn", kind) for kind in KINDS[1:]]
)
def test_every_network_and_every_pooling_answers_in_onnx_as_in_torch(name: str, pool: str) -> None:
    torch.manual_seed(0)
    network = NETWORKS[name]
    model = Classifier(network, Pooling(pool), classes=7).eval()
    images = raw(network, 9)
    graph = export.to_onnx(model, images[:2])
    with torch.inference_mode():
        expected = model(images)
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    for rows in (1, 9):
        (answer,) = session.run(["probabilities"], {"images": images[:rows].numpy()})
        np.testing.assert_allclose(answer, expected[:rows].numpy(), atol=1e-5)


def test_the_layer_table_reads_well() -> None:
    lines = layers.table(
        layers.layers_of(Classifier(NETWORKS["cifar10-lenet"]).body, torch.zeros(1, 3, 32, 32))
    ).splitlines()
    assert [line.split() for line in lines[:2]] == [
        ["layer", "output", "parameters"],
        ["Conv", "3→6,", "5×5", "6×28×28", "456"],
    ]
    assert lines[-1].split() == ["all", "62,006"] and all(line == line.rstrip() for line in lines)
