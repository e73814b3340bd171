"""Max pooling before ReLU: the same bits in outputs and gradients, in networks of any shape."""

import pytest
import torch
from torch import nn

from tests.support.training import random_images
from training.networks.pooling import Pooling
from training.networks.registry import NETWORKS
from training.networks.reordered import pool_before_relu


@pytest.mark.parametrize("name", ["mnist-simplecnn", "cifar10-cnn", "cifar10-lenet"])
def test_pooling_before_relu_gives_the_same_bits(name: str) -> None:
    network = NETWORKS[name]
    torch.manual_seed(0)
    model = network.classifier().eval()
    inputs = model.normalize(random_images(network, 64))
    results = []
    for body in (model.body, pool_before_relu(model.body)):
        model.zero_grad()
        outputs = body(inputs)
        outputs.square().sum().backward()
        results.append(
            [
                outputs.detach(),
                *(torch.clone(parameter.grad) for parameter in model.parameters() if parameter.grad is not None),
            ]
        )
    assert all(torch.equal(own, reordered) for own, reordered in zip(*results, strict=True))
    kinds = [type(layer).__name__ for layer in pool_before_relu(model.body).children()]
    assert kinds[:6] == ["Conv2d", "MaxPool2d", "ReLU", "Conv2d", "MaxPool2d", "ReLU"]


def test_other_pooling_keeps_its_place() -> None:
    body = NETWORKS["cifar10-lenet"].classifier(Pooling("avg")).body
    assert [*pool_before_relu(body).children()] == [*body.children()]


def test_a_module_with_a_forward_of_its_own_is_left_as_it_is() -> None:
    class Own(nn.Sequential):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * x

    body = Own(nn.ReLU(), nn.MaxPool2d(2))
    assert pool_before_relu(body) is body
    (nested,) = pool_before_relu(nn.Sequential(nn.Sequential(nn.ReLU(), nn.MaxPool2d(2)))).children()
    assert [type(layer) for layer in nested.children()] == [nn.MaxPool2d, nn.ReLU]


def test_a_layer_that_is_used_twice_runs_twice() -> None:
    relu = nn.ReLU()
    body = nn.Sequential(nn.Conv2d(1, 2, 3), relu, nn.MaxPool2d(2), nn.Conv2d(2, 2, 3), relu)
    inputs = torch.randn(2, 1, 12, 12)
    assert torch.equal(pool_before_relu(body)(inputs), body(inputs))
