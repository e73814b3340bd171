"""One temperature makes probabilities as sure as they are right, and changes no label."""

import pytest
import torch
from torch import nn

from tests.support.training import random_images
from training.data.dataset import Split
from training.evaluation.evaluate import figures
from training.networks.classifier import Classifier, Normalization, predict
from training.networks.registry import NETWORKS
from training.trainer import calibration
from training.trainer.calibration import apply_temperature, calibrate, fit_temperature


def sampled(count: int, true_temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (N, 5), and labels drawn from their softmax at a temperature."""
    random = torch.Generator().manual_seed(0)
    logits = 4 * torch.randn(count, 5, generator=random)
    labels = torch.multinomial(torch.softmax(logits / true_temperature, 1), 1, generator=random)[:, 0]
    return logits, labels


@pytest.mark.parametrize("temperature", [0.4, 1.0, 2.5])
def test_the_temperature_is_that_of_least_loss(temperature: float) -> None:
    logits, labels = sampled(20_000, temperature)
    fitted = fit_temperature(logits, labels)
    assert fitted == pytest.approx(temperature, rel=0.03)
    losses = [nn.functional.cross_entropy(logits / t, labels) for t in (0.95 * fitted, fitted, 1.05 * fitted)]
    assert losses[1] == min(losses)


def test_without_an_error_the_temperature_stays_finite_and_below_chance_it_is_1() -> None:
    logits, labels = 3 * torch.eye(4).repeat(200, 1), torch.arange(4).repeat(200)
    assert 0.2 < fit_temperature(logits, labels) < 1
    assert fit_temperature(logits, (labels + 1) % 4) == 1


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_the_temperature_is_folded_into_the_last_layer_of_every_network(name: str) -> None:
    network = NETWORKS[name]
    torch.manual_seed(0)
    model, images = network.classifier().eval(), random_images(network, 40)
    before = predict(model, images)
    apply_temperature(model, 0.5, network.image_shape)
    assert model.temperature == 1
    expected = torch.softmax(before.log() / 0.5, 1)
    torch.testing.assert_close(predict(model, images), expected, rtol=1e-4, atol=1e-6)


def test_calibration_lowers_the_calibration_error_and_keeps_every_label() -> None:
    """The logits are four times too large."""

    class Given(nn.Module):
        """Logits by the first pixel and the second: the index of the row in base 256."""

        def __init__(self, logits: torch.Tensor) -> None:
            super().__init__()
            self.logits = logits

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            pixels = (images[:, 0, 0, :2] * 255).round().long()
            return self.logits[(pixels[:, 0] * 256 + pixels[:, 1]).clamp_max(len(self.logits) - 1)]

    logits, labels = sampled(1000, 1.0)
    images = torch.zeros(1000, 2, 2, 1, dtype=torch.uint8)
    images[:, 0, 0, 0], images[:, 0, 1, 0] = torch.arange(1000) // 256, torch.arange(1000) % 256
    model, split = Classifier(Given(4 * logits), Normalization(0.0, 1.0)), Split(images, labels)
    before = figures(predict(model, images), labels)
    found = calibrate(model, split)
    after = figures(predict(model, images), labels)
    assert found is not None and found.temperature == pytest.approx(4, rel=0.15) and found.validation_images == 1000
    assert after.calibration_error < before.calibration_error / 3 and after.loss < before.loss
    assert torch.equal(after.probabilities.argmax(1), before.probabilities.argmax(1))


def test_too_few_validation_images_leave_the_network_as_it_is() -> None:
    model = NETWORKS["mnist-cnn"].classifier()
    images = random_images(NETWORKS["mnist-cnn"], calibration.MIN_VALIDATION_IMAGES - 1)
    assert calibrate(model, Split(images, torch.zeros(len(images), dtype=torch.int64))) is None
    assert model.temperature == 1
