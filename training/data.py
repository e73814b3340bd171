"""Data sets as whole tensors.

Owns: reading `mnist` and `mnist-sample`, refusing files that are not what they claim to be, and the split of the
training part into training and validation. Does not own: augmentation (recipe.py), scaling (inside the network).

Images are uint8 (N, H, W, C), as the service receives them; labels are int64 (N,).
"""

import gzip
import hashlib
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from training.errors import DataError

SAMPLE_FILE = Path(__file__).parent / "samples" / "mnist-sample.npz"

# MD5 of the four uncompressed IDX files and how many images they hold. Source: the digests that torchvision and the
# database's own page publish for the archives, recomputed for the content.
MNIST_FILES = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}


@dataclass(frozen=True)
class Part:
    """Images uint8 (N, H, W, C) and their labels int64 (N,)."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: Tensor) -> "Part":
        return Part(self.images[index], self.labels[index])


@dataclass(frozen=True)
class Dataset:
    """A named data set: a training part, a test part that is looked at once, and what its labels are called."""

    name: str
    train: Part
    test: Part
    label_names: tuple[str, ...]

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


def load(name: str, data_dir: Path) -> Dataset:
    """Read the data set `name`.

    Raises:
        DataError: a file is missing and cannot be fetched, or is not what its name says.
    """
    return LOADERS[name](data_dir)


def _load_sample(_: Path) -> Dataset:
    with np.load(SAMPLE_FILE, allow_pickle=False) as arrays:
        train = _part(arrays["train_images"], arrays["train_labels"])
        test = _part(arrays["test_images"], arrays["test_labels"])
    return Dataset("mnist-sample", train, test, DIGITS)


def _load_mnist(data_dir: Path) -> Dataset:
    """Read MNIST from torchvision's layout, `data_dir/MNIST/raw/`, plain or gzipped; fetch it if it is not there."""
    folder = data_dir / "MNIST" / "raw"
    if not all(_find(folder, name) for name in MNIST_FILES):
        _download_mnist(data_dir, folder)
    content = {name: _read_verified(folder, name, md5) for name, md5 in MNIST_FILES.items()}

    def part(prefix: str) -> Part:
        # IDX: images have a 16-byte header, labels 8 bytes. The digest has vouched for both.
        images = np.frombuffer(content[f"{prefix}-images-idx3-ubyte"], np.uint8, offset=16).reshape(-1, 28, 28)
        return _part(images, np.frombuffer(content[f"{prefix}-labels-idx1-ubyte"], np.uint8, offset=8))

    return Dataset("mnist", part("train"), part("t10k"), DIGITS)


def _part(images: np.ndarray, labels: np.ndarray) -> Part:
    """Grey images (N, H, W) and labels of any integer type, as tensors (N, H, W, 1) and int64 (N,)."""
    return Part(torch.tensor(images).unsqueeze(-1), torch.tensor(labels, dtype=torch.int64))


def _find(folder: Path, name: str) -> Path | None:
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)


def _read_verified(folder: Path, name: str, md5: str) -> bytes:
    path = _find(folder, name)
    if path is None:
        raise DataError(f"{folder / name} is missing")
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read ({error}); delete it and run again") from error
    found = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if found != md5:
        raise DataError(
            f"{path} is not MNIST's {name}: expected MD5 {md5}, got {found} ({len(content):,} bytes); "
            "it may be truncated: delete it and run again"
        )
    return content


def _download_mnist(data_dir: Path, folder: Path) -> None:
    import torchvision  # here, because it takes seconds to import and is needed only to download

    try:
        torchvision.datasets.MNIST(str(data_dir), download=True)
    except (OSError, RuntimeError) as error:
        missing = [name for name in MNIST_FILES if not _find(folder, name)]
        raise DataError(
            f"MNIST is not complete in {folder} and could not be downloaded ({' '.join(str(error).split())}). "
            f"Put there: {', '.join(missing)} (plain or .gz), or train with --dataset mnist-sample, "
            "which needs no download"
        ) from error


DIGITS = tuple("0123456789")
LOADERS: dict[str, Callable[[Path], Dataset]] = {"mnist": _load_mnist, "mnist-sample": _load_sample}
