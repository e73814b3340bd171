"""Every network, and every kind of pooling with any window, gives the same in PyTorch and in ONNX Runtime."""

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from tests.support.training import random_images
from training.networks.classifier import Classifier, Normalization
from training.networks.pooling import KINDS, Pooling
from training.networks.registry import NETWORKS
from training.publishing import export

WINDOWS = ((2, 2), (3, 1))


class EveryPooling(nn.Module):
    """Every kind of pooling, over every kind of window, side by side: one export shows that all can be exported."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 3)
        poolings = [Pooling(kind, *window) for kind in KINDS for window in WINDOWS]
        self.poolings = nn.ModuleList(
            nn.Sequential(pooling.layer(4), pooling.last_layer(4), nn.Flatten()) for pooling in poolings
        )

    def forward(self, x: Tensor) -> Tensor:
        maps = self.convolution(x).relu()
        return torch.cat([pooling(maps) for pooling in self.poolings], dim=1)


def check(model: Classifier, images: Tensor) -> None:
    """Export the model, and compare its answers with PyTorch's, alone and in a batch."""
    graph = export.to_onnx(model.eval(), images[:2])
    with torch.inference_mode():
        expected = model(images)
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    for rows in (1, 9):
        (probabilities,) = session.run(["probabilities"], {"images": images[:rows].numpy()})
        np.testing.assert_allclose(probabilities, expected[:rows].numpy(), atol=1e-5)


@pytest.mark.parametrize("name", list(NETWORKS))
def test_every_network_agrees_in_onnx_and_pytorch(name: str) -> None:
    torch.manual_seed(0)
    network = NETWORKS[name]
    check(network.classifier(classes=7), random_images(network, 9))


def test_a_network_with_another_pooling_window_and_stride_agrees_in_onnx_and_pytorch() -> None:
    torch.manual_seed(0)
    network = NETWORKS["cifar10-lenet"]
    check(network.classifier(Pooling("stride", window=3, stride=1), classes=7), random_images(network, 9))


def test_every_pooling_over_every_window_agrees_in_onnx_and_pytorch() -> None:
    torch.manual_seed(0)
    check(Classifier(EveryPooling(), Normalization(0.5, 0.5)), random_images(NETWORKS["cifar10-cnn"], 9))
