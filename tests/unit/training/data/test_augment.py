"""Augmentation: shifts, flips, rotation and zoom, and the augmentation of each data set."""

import pytest
import torch

from training.data.augment import (
    AUGMENTATIONS,
    DIGIT_AUGMENTATION,
    NO_AUGMENTATION,
    PHOTO_AUGMENTATION,
    RANDOM_NUMBERS_PER_IMAGE,
    Augmentation,
    augmentation_for,
    flipped_first,
    with_alternating_flips,
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


def test_an_augmentation_that_is_chosen_by_name_is_that_of_every_data_set() -> None:
    for name, augmentation in AUGMENTATIONS.items():
        assert augmentation_for("mnist", name) is augmentation_for("folder:mine", name) is augmentation
    assert AUGMENTATIONS["off"] == NO_AUGMENTATION
    mirror = AUGMENTATIONS["mirror"]
    assert mirror.flip and mirror.shift and not mirror.degrees and not mirror.zoom
    with pytest.raises(KeyError):
        augmentation_for("mnist", "wild")


def test_with_alternating_flips_every_image_is_seen_both_ways_in_two_epochs() -> None:
    images = torch.zeros(101, 5, 5, 1, dtype=torch.uint8)
    images[:, :, 0] = 255
    first = flipped_first(101, seed=3)
    assert first.sum() == 50 and torch.equal(first, flipped_first(101, seed=3))
    assert not torch.equal(first, flipped_first(101, seed=4))
    flip, random = Augmentation(flip=True), torch.rand(101, RANDOM_NUMBERS_PER_IMAGE)
    seen = []
    for epoch in range(4):
        numbers = with_alternating_flips(random, first, epoch)
        assert torch.equal(numbers[:, :4], random[:, :4]), "the other changes stay random"
        seen.append(flip(images, numbers)[:, 0, 4, 0] > 128)
    assert torch.equal(seen[0], first) and torch.equal(seen[1], ~first)
    assert torch.equal(seen[2], first) and torch.equal(seen[3], ~first)
