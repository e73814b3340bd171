"""The batches of every epoch: which images they have, and how these are augmented.

All randomness follows from the seed and the number of the epoch or the step. So a checkpoint holds no generator's
state, and every process draws the same numbers for all images and uses those of its shard.

A view is one draw of random augmentation of all training images. Each epoch has a view of its own or, with teachers,
takes one of a few in turn.

Not here: the kinds of augmentation (data/augment.py).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from training.data.augment import RANDOM_NUMBERS_PER_IMAGE, flipped_first, with_alternating_flips
from training.data.dataset import Split
from training.trainer.recipe import Recipe

# Independent streams of random numbers under one seed.
SHUFFLE, DROPOUT, AUGMENTATION, FLIP = range(4)


class Batches:
    """The batches of a training split; `views` is the number of views that epochs take in turn, if they do."""

    def __init__(self, training: Split, recipe: Recipe, *, views: int | None = None) -> None:
        self.training, self.recipe, self.views = training, recipe, views
        self.random = torch.Generator()  # on the CPU, so that a GPU sees the same batches and augmentation
        self.view = -1  # that `numbers` belong to
        self.numbers = torch.empty(0)  # random numbers of augmentation (N, RANDOM_NUMBERS_PER_IMAGE)

    def of_epoch(self, epoch: int, done: int = 0) -> Sequence[Tensor]:
        """Indices (B,) of each batch of the epoch after the first `done`; a last, smaller batch is dropped.

        From here on, images() gives the images of this epoch's view.
        """
        self.show_view(epoch if self.views is None else epoch % self.views)
        count, batch_size = len(self.training), self.recipe.batch_size
        order = torch.randperm(count, generator=self._generator(SHUFFLE, epoch))
        batches: Sequence[Tensor] = order[: count // batch_size * batch_size].split(batch_size)
        return batches[done:]

    def show_view(self, view: int) -> None:
        """Draw the random numbers of a view."""
        if view == self.view:
            return
        count = len(self.training)
        self.numbers = torch.rand(count, RANDOM_NUMBERS_PER_IMAGE, generator=self._generator(AUGMENTATION, view))
        if self.recipe.augmentation.alternate:
            self.numbers = with_alternating_flips(self.numbers, flipped_first(count, self._seed(FLIP, 0)), view)
        self.view = view

    def images(self, indices: Tensor) -> Tensor:
        """The images with these indices (B,), augmented as the view says: raw pixels (B, H, W, C)."""
        images = self.training.images[indices.to(self.training.images.device)]
        return self.recipe.augmentation(images, self.numbers[indices].to(images.device))

    def dropout_seed(self, step: int) -> int:
        """The seed of everything else that is random in a step."""
        return self._seed(DROPOUT, step)

    def _generator(self, stream: int, index: int) -> torch.Generator:
        """The random generator for one use, the same in every run with the same seed."""
        return self.random.manual_seed(self._seed(stream, index))

    def _seed(self, stream: int, index: int) -> int:
        return (self.recipe.seed * 1_000_003 + 4 * index + stream) % 2**62
