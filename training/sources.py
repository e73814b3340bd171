"""Where data sets come from: files that are verified before they are believed, and fetched where they are missing.

Owns: `mnist`, `fashion-mnist`, `cifar10` and the bundled `mnist-sample`, in torchvision's layouts below a data folder
and, for CIFAR-10, its official binary layout. Does not own: a user's own images (folder.py).
"""

import gzip
import hashlib
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from training import folder
from training.data import Dataset, Part
from training.errors import DataError

SAMPLE_FILE = Path(__file__).parent / "samples" / "mnist-sample.npz"

DIGITS = tuple("0123456789")
GARMENTS = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
THINGS = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

# MD5 of the uncompressed files. Sources: what torchvision and the databases' own pages publish for the archives,
# recomputed for the content; Fashion-MNIST's of Debian's dataset-fashion-mnist.
MNIST_FILES = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}
FASHION_FILES = {
    "train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
    "train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
    "t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
    "t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
}
CIFAR_FILES = {
    "data_batch_1.bin": "5dd7e06a14cb22eb9f671a540d1b7c25",
    "data_batch_2.bin": "5ea93a67294ea407fff1d09f752e9692",
    "data_batch_3.bin": "942cd6a4bcdd0dd3c604fbe906cb4421",
    "data_batch_4.bin": "ae636b3ba5c66a11e91e8cb52e771fcb",
    "data_batch_5.bin": "53f37980c15c3d472c316c40844f3f0d",
    "test_batch.bin": "803d5f7f4d78ea53de84dbe85f74fb6d",
}


def load(name: str, data_dir: Path, image: tuple[int, int, int] = (28, 28, 1)) -> Dataset:
    """Read the data set `name`; `folder:PATH` is images by class, made (H, W, C) = `image`.

    Raises:
        DataError: a file is missing and cannot be fetched, or is not what its name says.
    """
    if name.startswith(folder.PREFIX):
        return folder.load(Path(name.removeprefix(folder.PREFIX)), image)
    return LOADERS[name](data_dir)


def _load_sample(_: Path) -> Dataset:
    with np.load(SAMPLE_FILE, allow_pickle=False) as arrays:
        train = _grey(arrays["train_images"], arrays["train_labels"])
        test = _grey(arrays["test_images"], arrays["test_labels"])
    return Dataset("mnist-sample", train, test, DIGITS)


def _load_mnist(data_dir: Path) -> Dataset:
    return _load_idx("mnist", data_dir, "MNIST", MNIST_FILES, DIGITS)


def _load_fashion(data_dir: Path) -> Dataset:
    return _load_idx("fashion-mnist", data_dir, "FashionMNIST", FASHION_FILES, GARMENTS)


def _load_idx(name: str, data_dir: Path, kind: str, files: Mapping[str, str], labels: tuple[str, ...]) -> Dataset:
    """Read four IDX files, plain or gzipped, from `data_dir/KIND/raw/`; fetch them if they are not there."""
    place = data_dir / kind / "raw"
    missing = [file for file in files if not _find(place, file)]
    if missing:
        _download(kind, data_dir, place, missing)
    content = {file: _read_verified(place, file, md5, kind) for file, md5 in files.items()}

    def part(prefix: str) -> Part:
        # IDX: images have a 16-byte header, labels 8 bytes. The digest has vouched for both.
        images = np.frombuffer(content[f"{prefix}-images-idx3-ubyte"], np.uint8, offset=16).reshape(-1, 28, 28)
        return _grey(images, np.frombuffer(content[f"{prefix}-labels-idx1-ubyte"], np.uint8, offset=8))

    return Dataset(name, part("train"), part("t10k"), labels)


def _load_cifar(data_dir: Path) -> Dataset:
    """Read CIFAR-10 from `cifar-10-batches-bin/`, or else as torchvision keeps it, `cifar-10-batches-py/`."""
    place, pickled = data_dir / "cifar-10-batches-bin", data_dir / "cifar-10-batches-py"
    if not place.is_dir():
        if not pickled.is_dir():
            _download("CIFAR10", data_dir, place, list(CIFAR_FILES))
        return _load_torchvision_cifar(data_dir, pickled)

    def part(names: list[str]) -> Part:
        content = b"".join(_read_verified(place, name, CIFAR_FILES[name], "CIFAR-10") for name in names)
        # A record is a label and 1,024 red, 1,024 green and 1,024 blue pixels: https://www.cs.toronto.edu/~kriz/cifar.html
        records = torch.frombuffer(bytearray(content), dtype=torch.uint8).reshape(-1, 3073)
        images = records[:, 1:].reshape(-1, 3, 32, 32).permute(0, 2, 3, 1).contiguous()
        return Part(images, records[:, 0].to(torch.int64))

    *train, test = CIFAR_FILES
    return Dataset("cifar10", part(train), part([test]), THINGS)


def _load_torchvision_cifar(data_dir: Path, place: Path) -> Dataset:
    import torchvision  # here, because it takes seconds to import

    parts: list[Part] = []
    for train in (True, False):
        try:  # its files are pickles, which it reads only if their MD5 are what it knows
            found = torchvision.datasets.CIFAR10(str(data_dir), train=train, download=False)
        except (OSError, RuntimeError, ValueError, EOFError) as error:
            raise DataError(f"{place} is not CIFAR-10, or not whole ({error}); delete it and run again") from error
        parts.append(Part(torch.from_numpy(found.data).contiguous(), torch.tensor(found.targets)))
    training, test = parts
    return Dataset("cifar10", training, test, THINGS)


def _grey(images: NDArray[np.uint8], labels: NDArray[np.integer]) -> Part:
    """Grey images (N, H, W) and labels of any integer type, as tensors (N, H, W, 1) and int64 (N,)."""
    return Part(torch.tensor(images).unsqueeze(-1), torch.tensor(labels, dtype=torch.int64))


def _find(place: Path, name: str) -> Path | None:
    return next((path for path in (place / name, place / f"{name}.gz") if path.is_file()), None)


def _read_verified(place: Path, name: str, md5: str, kind: str) -> bytes:
    path = _find(place, name)
    if path is None:
        raise DataError(f"{place / name} is missing")
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read ({error}); delete it and run again") from error
    found = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if found != md5:
        raise DataError(
            f"{path} is not {kind}'s {name}: expected MD5 {md5}, got {found} ({len(content):,} bytes); "
            "it may be truncated: delete it and run again"
        )
    return content


def _download(kind: str, data_dir: Path, place: Path, missing: list[str]) -> None:
    import torchvision  # here, because it takes seconds to import and is needed only to download

    try:
        getattr(torchvision.datasets, kind)(str(data_dir), download=True)
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"{kind} is not complete in {place} and could not be downloaded ({' '.join(str(error).split())}). "
            f"Put there: {', '.join(missing)} (plain or .gz), or train with --dataset mnist-sample, "
            "which needs no download"
        ) from error


LOADERS: dict[str, Callable[[Path], Dataset]] = {
    "mnist": _load_mnist,
    "mnist-sample": _load_sample,
    "fashion-mnist": _load_fashion,
    "cifar10": _load_cifar,
}
