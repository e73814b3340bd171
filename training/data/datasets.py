"""The named data sets: `mnist`, `fashion-mnist`, `cifar10` and the bundled `mnist-sample`.

Files are verified by digest before they are used, and downloaded if they are missing. Below the data folder they have
torchvision's layout; CIFAR-10 may also have its official binary layout.

Not here: a user's own images (folder/).
"""

import gzip
import hashlib
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from service.pictures.fit import DRAWING, RESIZE, Fit
from training.data.dataset import Dataset, Split
from training.data.folder.load import PREFIX
from training.data.folder.load import load as load_folder
from training.data.folder.reading import Say
from training.errors import DataError

SAMPLE_FILE = Path(__file__).parent / "samples" / "mnist-sample.npz"

DIGIT_LABELS = tuple("0123456789")
FASHION_LABELS = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
# Data sets whose images are drawings, light on dark and centred; a picture of another form must be brought into it.
DRAWINGS = ("mnist", "mnist-sample")
CIFAR_LABELS = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

# MD5 of the uncompressed files, computed from archives whose own MD5 torchvision and the data sets' pages publish;
# Fashion-MNIST's from Debian's package dataset-fashion-mnist.
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


def own_fit(name: str) -> Fit:
    """The fit that brings a picture into the form of the data set's images, unless the user chooses another."""
    return Fit(DRAWING if name in DRAWINGS else RESIZE)


def load(
    name: str,
    data_dir: Path,
    image_shape: tuple[int, int, int] = (28, 28, 1),
    fit: Fit | None = None,
    *,
    skip_unreadable: bool = False,
    say: Say | None = None,
) -> Dataset:
    """Load the data set `name`; the pictures of `folder:PATH` become images of `image_shape` (H, W, C) by `fit`.

    `fit` is own_fit() if it is not given. Other data sets hold images, which need no fit. For `skip_unreadable` and
    `say` see folder/load.py.

    Raises:
        DataError: a file is missing and cannot be downloaded, or is not what its name says.
    """
    if name.startswith(PREFIX):
        path, fit = Path(name.removeprefix(PREFIX)), fit or own_fit(name)
        return load_folder(path, image_shape, fit, data_dir=data_dir, skip_unreadable=skip_unreadable, say=say)
    return LOADERS[name](data_dir)


def _load_sample(_: Path) -> Dataset:
    with np.load(SAMPLE_FILE, allow_pickle=False) as arrays:
        train = _grey_split(arrays["train_images"], arrays["train_labels"])
        test = _grey_split(arrays["test_images"], arrays["test_labels"])
    return Dataset("mnist-sample", train, test, DIGIT_LABELS)


def _load_mnist(data_dir: Path) -> Dataset:
    return _load_idx("mnist", data_dir, "MNIST", MNIST_FILES, DIGIT_LABELS)


def _load_fashion(data_dir: Path) -> Dataset:
    return _load_idx("fashion-mnist", data_dir, "FashionMNIST", FASHION_FILES, FASHION_LABELS)


def _load_idx(name: str, data_dir: Path, title: str, files: Mapping[str, str], labels: tuple[str, ...]) -> Dataset:
    """Read four IDX files, plain or gzipped, from `data_dir/TITLE/raw/`; download them if they are missing."""
    folder = data_dir / title / "raw"
    missing = [file for file in files if not _find(folder, file)]
    if missing:
        _download(title, data_dir, folder, missing)
    content = {file: _read_verified(folder, file, md5, title) for file, md5 in files.items()}

    def split(prefix: str) -> Split:
        # The header of an IDX file has 16 bytes for images and 8 for labels; the digest covers it.
        images = np.frombuffer(content[f"{prefix}-images-idx3-ubyte"], np.uint8, offset=16).reshape(-1, 28, 28)
        return _grey_split(images, np.frombuffer(content[f"{prefix}-labels-idx1-ubyte"], np.uint8, offset=8))

    return Dataset(name, split("train"), split("t10k"), labels)


def _load_cifar(data_dir: Path) -> Dataset:
    """Read CIFAR-10's binary files from `cifar-10-batches-bin/`, else torchvision's from `cifar-10-batches-py/`."""
    folder, pickled = data_dir / "cifar-10-batches-bin", data_dir / "cifar-10-batches-py"
    if not folder.is_dir():
        if not pickled.is_dir():
            _download("CIFAR10", data_dir, folder, list(CIFAR_FILES))
        return _load_torchvision_cifar(data_dir, pickled)

    def split(names: list[str]) -> Split:
        content = b"".join(_read_verified(folder, name, CIFAR_FILES[name], "CIFAR-10") for name in names)
        # A record is 1 byte of label, then 1,024 red, 1,024 green and 1,024 blue pixels.
        # Source: https://www.cs.toronto.edu/~kriz/cifar.html
        records = torch.frombuffer(bytearray(content), dtype=torch.uint8).reshape(-1, 3073)
        images = records[:, 1:].reshape(-1, 3, 32, 32).permute(0, 2, 3, 1).contiguous()
        return Split(images, records[:, 0].to(torch.int64))

    *train, test = CIFAR_FILES
    return Dataset("cifar10", split(train), split([test]), CIFAR_LABELS)


def _load_torchvision_cifar(data_dir: Path, folder: Path) -> Dataset:
    import torchvision  # here, because its import takes seconds

    splits: list[Split] = []
    for is_train in (True, False):
        try:  # torchvision checks the MD5 of its files, which are pickles, before it reads them
            found = torchvision.datasets.CIFAR10(str(data_dir), train=is_train, download=False)
        except (OSError, RuntimeError, ValueError, EOFError) as error:
            raise DataError(f"{folder} is not a complete CIFAR-10 ({error}); delete it and run again") from error
        splits.append(Split(torch.from_numpy(found.data).contiguous(), torch.tensor(found.targets)))
    train, test = splits
    return Dataset("cifar10", train, test, CIFAR_LABELS)


def _grey_split(images: NDArray[np.uint8], labels: NDArray[np.integer]) -> Split:
    """Grey images (N, H, W) and labels of any integer type, as tensors (N, H, W, 1) and int64 (N,)."""
    return Split(torch.tensor(images).unsqueeze(-1), torch.tensor(labels, dtype=torch.int64))


def _find(folder: Path, name: str) -> Path | None:
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)


def _read_verified(folder: Path, name: str, md5: str, title: str) -> bytes:
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
            f"{path} is not {title}'s {name}: expected MD5 {md5}, got {found} ({len(content):,} bytes); "
            "it may be truncated; delete it and run again"
        )
    return content


def _download(title: str, data_dir: Path, folder: Path, missing: list[str]) -> None:
    import torchvision  # here, because its import takes seconds and only a download needs it

    try:
        getattr(torchvision.datasets, title)(str(data_dir), download=True)
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"{title} is incomplete in {folder} and the download failed ({' '.join(str(error).split())}). "
            f"Put these files there: {', '.join(missing)} (plain or .gz); or train with --dataset mnist-sample, "
            "which needs no download"
        ) from error


LOADERS: dict[str, Callable[[Path], Dataset]] = {
    "mnist": _load_mnist,
    "mnist-sample": _load_sample,
    "fashion-mnist": _load_fashion,
    "cifar10": _load_cifar,
}
