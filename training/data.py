"""A data set as whole tensors.

Owns: what a data set is, its digest, and the split of its training part. Does not own: where it comes from
(sources.py, folder.py), augmentation (augment.py), scaling (inside the network).

Images are uint8 (N, H, W, C), as the service receives them; labels are int64 (N,).
"""

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Part:
    """Images uint8 (N, H, W, C) and their labels int64 (N,)."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: Tensor | slice) -> "Part":
        return Part(self.images[index], self.labels[index])

    def to(self, device: torch.device) -> "Part":
        """The same on another device."""
        return Part(self.images.to(device), self.labels.to(device))


@dataclass(frozen=True)
class Dataset:
    """A named data set: a training part, a test part that is looked at once, and what its labels are called."""

    name: str
    train: Part
    test: Part
    label_names: tuple[str, ...]

    @property
    def image(self) -> tuple[int, int, int]:
        """(H, W, C) of every image."""
        height, width, channels = self.train.images.shape[1:]
        return height, width, channels

    def digest(self) -> str:
        """SHA-256 over all pixels and labels, so that a manifest says exactly what was learned from."""
        sha = hashlib.sha256()
        for part in (self.train, self.test):
            sha.update(part.images.numpy().tobytes())
            sha.update(part.labels.numpy().tobytes())
        return sha.hexdigest()


def split(part: Part, *, validation: int, seed: int) -> tuple[Part, Part]:
    """Divide the training part at random into (training, validation), the same way for the same seed."""
    order = torch.randperm(len(part), generator=torch.Generator().manual_seed(seed))
    return part[order[validation:]], part[order[:validation]]
