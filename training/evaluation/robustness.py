"""Robustness: the accuracy on copies of the test images that are shifted, rotated or noisy.

The copies run through any function from images to probabilities. The job passes the exported graph, because ONNX
Runtime is faster than PyTorch and is what serves.

Not here: the figures on the images as they are (evaluate.py).
"""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.data.augment import RANDOM_NUMBERS_PER_IMAGE, Augmentation
from training.data.dataset import Split

# Each perturbs half of the test images in one direction and half in the other.
PERTURBATIONS = {
    "shifted 1 pixel": Augmentation(shift=1),
    "shifted 2 pixels": Augmentation(shift=2),
    "rotated 10°": Augmentation(degrees=10),
    "rotated 20°": Augmentation(degrees=20),
}
# Standard deviations of Gaussian noise, as fractions of the pixels' full range.
NOISE_LEVELS = (0.05, 0.1, 0.2)


def perturbed_accuracy(run: Callable[[NDArray[np.uint8]], NDArray[np.float32]], test: Split) -> dict[str, float]:
    """The accuracy, from 0 to 1, by perturbation; `run` takes images (N, H, W, C) to probabilities (N, classes)."""
    labels = test.labels.numpy()
    return {
        name: int((run(images.numpy()).argmax(1) == labels).sum()) / len(labels)
        for name, images in perturbed(test.images)
    }


def perturbed(images: Tensor) -> Iterator[tuple[str, Tensor]]:
    """The images uint8 (N, H, W, C) with each perturbation in turn, by its name."""
    numbers = torch.zeros(len(images), RANDOM_NUMBERS_PER_IMAGE)  # 0 is the largest change in one direction
    numbers[1::2] = 1 - 1e-6  # and nearly 1 in the other
    for name, change in PERTURBATIONS.items():
        yield name, _to_pixels(change(images, numbers))
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    for level in NOISE_LEVELS:
        yield f"noise {level:.0%}", _to_pixels(images + noise * 255 * level)


def _to_pixels(values: Tensor) -> Tensor:
    return values.round().clamp(0, 255).to(torch.uint8)
