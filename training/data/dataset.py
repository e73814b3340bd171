"""A data set held as whole tensors, its splits and its digest.

Images are uint8 (N, H, W, C), as the service receives them; labels are int64 (N,).

Not here: reading data sets (datasets.py, folder/), augmentation (augment.py), normalization (networks.py).
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from training.data.content import image_digest, position


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

    def mean_and_std(self) -> tuple[float, float]:
        """Mean and standard deviation of all pixels, which count from 0 to 1; counted, so that no copy is made."""
        counts = self.images.flatten().bincount(minlength=256).double()
        levels = torch.arange(256, dtype=torch.float64) / 255
        mean = (counts * levels).sum() / counts.sum()
        return mean.item(), ((counts * (levels - mean) ** 2).sum() / (counts.sum() - 1)).sqrt().item()

    def digest(self) -> str:
        """SHA-256 of all pixels and labels, in their order."""
        return _sha256(self).hexdigest()


@dataclass(frozen=True)
class Dataset:
    """A named data set: its training split, its test split, and its label names by class id."""

    name: str
    train: Split
    test: Split
    label_names: tuple[str, ...]
    test_files: tuple[Path, ...] = ()  # of the test images, in their order, if they were read from files
    validation: Split | None = None  # that the user made; otherwise it is taken from `train`
    is_split_by_content: bool = False  # the validation split too, so that a new image moves no other
    excluded: Mapping[str, int] = field(default_factory=dict)  # the number of pictures left out, by reason

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C) of every image."""
        height, width, channels = self.train.images.shape[1:]
        return height, width, channels

    def digest(self) -> str:
        """SHA-256 of all pixels and labels; the manifest records it."""
        splits = (self.train, self.test) if self.validation is None else (self.train, self.validation, self.test)
        return _sha256(*splits).hexdigest()


def training_and_validation(dataset: Dataset, *, fraction: float, seed: int) -> tuple[Split, Split]:
    """The images to train on and those to validate on: the user's own, or `fraction` of the training split.

    The seed decides which, with the content of each image if the data set is split by content.
    """
    if dataset.validation is not None:
        return dataset.train, dataset.validation
    if dataset.is_split_by_content:
        return _split_by_content(dataset.train, fraction=fraction, seed=seed)
    return split_validation(dataset.train, size=int(len(dataset.train) * fraction), seed=seed)


def split_validation(train: Split, *, size: int, seed: int) -> tuple[Split, Split]:
    """Split `size` random images off the training split: (training, validation). The seed decides which."""
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))
    return train[order[size:]], train[order[:size]]


def split_digest(training: Split, validation: Split, test: Split) -> str:
    """SHA-256 of three splits: which images, with which labels, in which split and in which order."""
    return hashlib.sha256(" ".join(split.digest() for split in (training, validation, test)).encode()).hexdigest()


def _split_by_content(train: Split, *, fraction: float, seed: int) -> tuple[Split, Split]:
    """Split about `fraction` of the images off, by a hash of their pixels; each class keeps one to train on."""
    digests = [image_digest(image) for image in train.images.numpy()]
    positions = torch.tensor([position(digest, f"validation {seed}") for digest in digests], dtype=torch.float64)
    is_validation = positions < fraction
    for class_id in train.labels.unique():
        of_class = train.labels == class_id
        if is_validation[of_class].all():
            is_validation[of_class & (positions == positions[of_class].max())] = False
    return train[~is_validation], train[is_validation]


def _sha256(*splits: Split) -> "hashlib._Hash":
    sha = hashlib.sha256()
    for split in splits:
        for tensor in (split.images, split.labels):
            sha.update(tensor.contiguous().numpy().data)
    return sha
