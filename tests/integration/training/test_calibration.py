"""A temperature that no layer can fold is part of the exported graph."""

import torch
from torch import nn

from tests.support.training import random_images
from training.networks.classifier import Classifier, Normalization, predict
from training.networks.registry import NETWORKS
from training.publishing import export
from training.trainer.calibration import apply_temperature


class Scaled(nn.Module):
    """A network that no change of its last layer's weights divides: its output is squared."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(28 * 28, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.layer(images.flatten(1))
        return output**2


def test_a_network_that_cannot_fold_it_divides_its_logits_in_the_exported_graph_too() -> None:
    torch.manual_seed(0)
    model, images = Classifier(Scaled(), Normalization(0.5, 0.5)).eval(), random_images(NETWORKS["mnist-cnn"], 20)
    weights, before = model.state_dict()["body.layer.weight"].clone(), predict(model, images)
    apply_temperature(model, 3.0, (28, 28, 1))
    assert model.temperature == 3 and torch.equal(model.state_dict()["body.layer.weight"], weights)
    after = predict(model, images)
    torch.testing.assert_close(after, torch.softmax(before.log() / 3, 1), rtol=1e-4, atol=1e-6)
    export.check_parity(export.to_onnx(model, images[:2]), images, after)
