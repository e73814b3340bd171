"""Batches: every image once in an epoch, and augmentation that follows from the seed and the epoch."""

import torch

from tests.support.training import short_recipe, splits
from training.data.augment import Augmentation
from training.trainer.batches import Batches

EVERYTHING = torch.arange(500)


def test_an_epoch_has_every_image_once_in_an_order_of_its_own() -> None:
    batches = Batches(splits()[0], short_recipe(batch_size=100))
    first, second = (torch.cat([*batches.of_epoch(epoch)]) for epoch in (0, 1))
    assert torch.equal(first.sort().values, EVERYTHING) and not torch.equal(first, second)
    assert torch.equal(torch.cat([*batches.of_epoch(0, done=3)]), first[300:])


def test_a_last_smaller_batch_is_dropped() -> None:
    assert [len(batch) for batch in Batches(splits()[0], short_recipe(batch_size=240)).of_epoch(0)] == [240, 240]


def test_the_augmentation_of_an_image_depends_on_the_seed_and_the_epoch_not_on_its_batch() -> None:
    batches, same, other = (Batches(splits()[0], short_recipe(seed=seed)) for seed in (1, 1, 2))
    batches.of_epoch(3)
    expected = batches.images(EVERYTHING)
    same.of_epoch(2)
    assert not torch.equal(same.images(EVERYTHING), expected)
    same.of_epoch(3)
    assert torch.equal(same.images(EVERYTHING[100:200]), expected[100:200])
    other.of_epoch(3)
    assert not torch.equal(other.images(EVERYTHING), expected)


def test_alternating_flips_show_each_image_both_ways_in_turn() -> None:
    training, _ = splits()
    batches = Batches(training, short_recipe(augmentation=Augmentation(flip=True, alternate=True)))
    shown = []
    for epoch in range(3):
        batches.of_epoch(epoch)
        shown.append(batches.images(EVERYTHING).round())
    assert torch.equal(shown[0], shown[1].flip(2)) and torch.equal(shown[0], shown[2])
    unflipped = [bool((a == b).all()) for a, b in zip(shown[0], training.images, strict=True)]
    assert 0.4 < sum(unflipped) / len(training) < 0.6
