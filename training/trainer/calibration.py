"""Calibration: one temperature that makes a network's probabilities as sure as it is right.

The logits are divided by the temperature, which minimizes the loss on the validation images, so labels do not change.
It is folded into the weights of the last layer, and then costs nothing when the network runs. In a network where that
is not possible the classifier divides its logits.

Source: https://arxiv.org/abs/1706.04599

Not here: how well calibrated a network is (evaluation/).
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from training.data.dataset import Split
from training.networks.classifier import Classifier

# With fewer validation images the temperature is left at 1: it would depend on a handful of errors.
MIN_VALIDATION_IMAGES = 500
# Bounds of the temperature's inverse, and halvings of the interval between them: enough for every bit of a float32.
SMALLEST, LARGEST, HALVINGS = 0.02, 50.0, 60
BATCH_SIZE = 1000
# The largest difference of a logit, as a share of the largest logit, between dividing before and after the last layer.
FOLD_TOLERANCE = 1e-5
PROBE_IMAGES = 8


@dataclass(frozen=True)
class Calibration:
    """The temperature, and the number of validation images that it was fitted on."""

    temperature: float
    validation_images: int


def calibrate(model: Classifier, validation: Split) -> Calibration | None:
    """Fit the temperature on the validation images and divide the model's logits by it; None if they are too few."""
    if len(validation) < MIN_VALIDATION_IMAGES:
        return None
    temperature = fit_temperature(_logits(model, validation.images), validation.labels)
    apply_temperature(model, temperature, (*validation.images.shape[1:],))
    return Calibration(temperature, len(validation))


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """The temperature of least loss for logits (N, classes) and their labels (N,); 1 if they are no better than chance.

    One image of unknown class is added, so that logits without an error keep a finite temperature. In the inverse of
    the temperature the loss is convex: its derivative, here in float64, changes its sign once.
    """
    values = logits.double()
    own, mean = values.gather(1, labels[:, None])[:, 0], values.mean(1)  # (N,)

    def derivative(inverse: float) -> float:
        expected = (torch.softmax(values * inverse, 1) * values).sum(1)
        return float((expected - own).sum() + (expected - mean).mean())

    low, high = SMALLEST, LARGEST
    if not derivative(low) < 0:
        return 1.0
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if derivative(middle) < 0 else (low, middle)
    return 1 / low


def apply_temperature(model: Classifier, temperature: float, image_shape: tuple[int, ...]) -> None:
    """Divide the logits of the model by the temperature, for images of this shape (H, W, C). Apply it once.

    The last layer with weights gets it if the logits then are those of dividing afterwards; random images tell.
    """
    random = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (PROBE_IMAGES, *image_shape), dtype=torch.uint8, generator=random)
    expected = torch.log_softmax(_logits(model, images) / temperature, 1)
    layers = [layer for layer in model.body.modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    parameters = list(layers[-1].parameters(recurse=False)) if layers else []
    before = [parameter.detach().clone() for parameter in parameters]
    with torch.no_grad():
        for parameter in parameters:
            parameter.div_(temperature)
        difference = torch.log_softmax(_logits(model, images), 1) - expected
        if difference.abs().max() <= FOLD_TOLERANCE * expected.abs().max():
            return
        for parameter, value in zip(parameters, before, strict=True):
            parameter.copy_(value)
    model.temperature = temperature


@torch.inference_mode()
def _logits(model: Classifier, images: Tensor) -> Tensor:
    """Logits float32 (N, classes) of raw images (N, H, W, C)."""
    model.eval()
    return torch.cat([model.logits(batch) for batch in images.split(BATCH_SIZE)])
