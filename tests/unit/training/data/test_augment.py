"""Augmentation: shifts, flips, rotation and zoom, and the augmentation of each data set."""

import torch

from training.data.augment import (
    DIGIT_AUGMENTATION,
    PHOTO_AUGMENTATION,
    RANDOM_NUMBERS_PER_IMAGE,
    Augmentation,
    augmentation_for,
)


def test_shifts_and_flips_move_whole_pixels_without_blur() -> None:
    images = torch.zeros(4000, 9, 9, 1, dtype=torch.uint8)
    images[:, 4, 3] = 255
    images[:, 4, 4] = 100
    augmented = Augmentation(shift=2, flip=True)(images, torch.rand(4000, RANDOM_NUMBERS_PER_IMAGE)).round()
    assert augmented.shape == images.shape
    assert {tuple(image.unique().tolist()) for image in augmented} == {(0, 100, 255)}
    positions = {tuple((image[:, :, 0] == 255).nonzero()[0].tolist()) for image in augmented}
    assert positions == {(y, x) for y in range(2, 7) for x in range(1, 8)}  # x is 3 or, flipped, 5, each ± 2
    flipped = [int((image == 255).nonzero()[0, 1]) > int((image == 100).nonzero()[0, 1]) for image in augmented]
    assert 0.45 < sum(flipped) / 4000 < 0.55


def test_a_shift_pads_with_zeros_or_by_reflection() -> None:
    image = torch.full((1, 8, 8, 1), 7, dtype=torch.uint8)
    numbers = torch.full((1, RANDOM_NUMBERS_PER_IMAGE), 0.999)
    assert Augmentation(shift=2)(image, numbers).round().unique().tolist() == [0, 7]
    assert PHOTO_AUGMENTATION(image, numbers).round().unique().tolist() == [7]


def test_rotation_and_zoom_keep_the_centre_and_three_quarters_of_the_ink() -> None:
    image = torch.zeros(64, 29, 29, 1, dtype=torch.uint8)
    image[:, 8:21, 14] = 255
    rotated = Augmentation(degrees=90)(image, torch.ones(64, RANDOM_NUMBERS_PER_IMAGE))
    torch.testing.assert_close(rotated[0, 14, 8:21, 0], torch.full((13,), 255.0), atol=0.1, rtol=0)
    augmented = DIGIT_AUGMENTATION(image, torch.rand(64, RANDOM_NUMBERS_PER_IMAGE))
    assert (augmented.sum((1, 2, 3)) / image.float().sum((1, 2, 3))).min() > 0.75


def test_digits_are_not_flipped_and_images_of_unknown_content_are_only_shifted() -> None:
    assert not augmentation_for("mnist").flip and augmentation_for("cifar10").flip
    other = augmentation_for("folder:mine")
    assert not other.flip and not other.zoom and not other.degrees and other.shift
