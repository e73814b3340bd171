"""Every network, with every kind of pooling, gives the same probabilities in PyTorch and in ONNX Runtime."""

import numpy as np
import onnxruntime
import pytest
import torch

from tests.support.training import random_images
from training.networks.pooling import KINDS, Pooling
from training.networks.registry import NETWORKS
from training.publishing import export


@pytest.mark.parametrize(
    ("name", "pooling"), [(name, "max") for name in NETWORKS] + [("cifar10-cnn", kind) for kind in KINDS[1:]]
)
def test_every_network_and_every_pooling_agrees_in_onnx_and_pytorch(name: str, pooling: str) -> None:
    torch.manual_seed(0)
    network = NETWORKS[name]
    model = network.classifier(Pooling(pooling), classes=7).eval()
    images = random_images(network, 9)
    graph = export.to_onnx(model, images[:2])
    with torch.inference_mode():
        expected = model(images)
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    for rows in (1, 9):
        (probabilities,) = session.run(["probabilities"], {"images": images[:rows].numpy()})
        np.testing.assert_allclose(probabilities, expected[:rows].numpy(), atol=1e-5)
