"""The networks: their layers and normalization, and the sizes that follow from another pooling window or stride."""

import pytest
import torch
from torch import nn

from tests.support.training import random_images
from training.errors import ImpossibleSize
from training.networks.layers import layer_summaries
from training.networks.pooling import KINDS, Pooling
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
    "cifar10-onelayer": (
        "Conv2d ReLU MaxPool2d Flatten Linear",
        "32×30×30 32×30×30 32×15×15 7200 10",
        72_906,
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


def test_networks_have_the_accuracies_of_their_sources_and_our_own_have_none() -> None:
    assert {name: network.reference_accuracy for name, network in NETWORKS.items()} == {
        "mnist-simplecnn": 0.9923, "mnist-cnn": 0.9901, "cifar10-cnn": 0.7040, "cifar10-lenet": None,
        "cifar10-onelayer": None, "mnist-teacher": None, "cifar10-teacher": None,
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


@pytest.mark.parametrize(("window", "stride"), [(3, 2), (2, 1), (3, 3), (1, 2), (4, 3)])
@pytest.mark.parametrize("name", list(EXPECTED))
def test_the_fully_connected_layers_follow_the_window_and_the_stride(name: str, window: int, stride: int) -> None:
    for kind in KINDS:
        model = NETWORKS[name].classifier(Pooling(kind, window, stride), classes=3).eval()
        assert model(random_images(NETWORKS[name], 2)).shape == (2, 3)


@pytest.mark.parametrize(
    ("name", "window", "stride", "message"),
    [
        ("mnist-simplecnn", 8, 8, r"8×8 does not fit on a map of 3×3.*⌊\(n \+ 2p − f\) / s⌋ \+ 1 = ⌊\(3−8\)/8⌋\+1 = 0"),
        ("cifar10-cnn", 30, 2, r"3×3 does not fit on a map of 1×1.*⌊\(1−3\)/1⌋\+1 = -1"),
        ("cifar10-lenet", 29, 1, r"29×29 does not fit on a map of 28×28.*⌊\(28−29\)/1⌋\+1 = 0"),
    ],
)
def test_a_window_that_does_not_fit_is_refused_with_the_formula_and_its_numbers(
    name: str, window: int, stride: int, message: str
) -> None:
    with pytest.raises(ImpossibleSize, match=message):
        NETWORKS[name].classifier(Pooling("max", window, stride))
