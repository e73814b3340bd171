"""A data set held as whole tensors, its splits and its digest.

Images are uint8 (N, H, W, C), as the service receives them; labels are int64 (N,).

Not here: reading data sets (datasets.py, image_folder.py), augmentation (augment.py), normalization (networks.py).
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor


@dataclass(frozen=True)
class Split:
    """Images uint8 (N, H, W, C) and their labels int64 (N,)."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: Tensor | slice) -> "Split":
        return Split(self.images[index], self.labels[index])

    def to(self, device: torch.device) -> "Split":
        """A copy on the device."""
        return Split(self.images.to(device), self.labels.to(device))


@dataclass(frozen=True)
class Dataset:
    """A named data set: its training split, its test split, and its label names by class id.

    `test_files` are the picture files of the test images, in their order; empty if the data set holds no pictures.
    """

    name: str
    train: Split
    test: Split
    label_names: tuple[str, ...]
    test_files: tuple[Path, ...] = ()

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C) of every image."""
        height, width, channels = self.train.images.shape[1:]
        return height, width, channels

    def digest(self) -> str:
        """SHA-256 of all pixels and labels; the manifest records it."""
        sha = hashlib.sha256()
        for split in (self.train, self.test):
            sha.update(split.images.numpy().tobytes())
            sha.update(split.labels.numpy().tobytes())
        return sha.hexdigest()


def split_digest(training: Split, validation: Split, test: Split) -> str:
    """SHA-256 of the pixels and labels of the three splits, in their order: which image is in which."""
    sha = hashlib.sha256()
    for split in (training, validation, test):
        sha.update(len(split).to_bytes(8))
        sha.update(split.images.numpy().tobytes())
        sha.update(split.labels.numpy().tobytes())
    return sha.hexdigest()


def split_validation(train: Split, *, size: int, seed: int) -> tuple[Split, Split]:
    """Split `size` random images off the training split: (training, validation). The seed decides which."""
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))
    return train[order[size:]], train[order[:size]]
