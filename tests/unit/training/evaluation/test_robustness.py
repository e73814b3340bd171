"""Robustness is the accuracy on images that are changed by the named amounts, in both directions."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from training.data.dataset import Split
from training.evaluation import robustness


def test_perturbations_have_the_named_size_in_both_directions() -> None:
    images = torch.zeros(2, 9, 9, 1, dtype=torch.uint8)
    images[:, 4, 4] = 200
    perturbed = dict(robustness.perturbed(images))
    positions = [tuple((image[:, :, 0] == 200).nonzero()[0].tolist()) for image in perturbed["shifted 2 pixels"]]
    assert sorted(positions) == [(2, 2), (6, 6)]
    assert list(perturbed) == [
        "shifted 1 pixel", "shifted 2 pixels", "rotated 10°", "rotated 20°", "noise 5%", "noise 10%", "noise 20%",
    ]  # fmt: skip
    flat = torch.full((50, 20, 20, 1), 128, dtype=torch.uint8)
    noisy = dict(robustness.perturbed(flat))["noise 10%"].float()
    assert noisy.std().item() == pytest.approx(25.5, rel=0.02) and noisy.mean().item() == pytest.approx(128, abs=0.5)


def test_any_function_of_images_is_evaluated_on_each_perturbation() -> None:
    images = torch.zeros(4, 9, 9, 1, dtype=torch.uint8)
    images[:, 4, 4] = 200

    def is_centred(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        centred = (images[:, 4, 4, 0] > 100).astype(np.float32)  # (N,)
        return np.stack([1 - centred, centred], 1)

    accuracy = robustness.perturbed_accuracy(is_centred, Split(images, torch.tensor([1, 1, 1, 0])))
    assert accuracy["shifted 1 pixel"] == accuracy["shifted 2 pixels"] == 0.25
    assert accuracy["rotated 10°"] == accuracy["noise 5%"] == 0.75
