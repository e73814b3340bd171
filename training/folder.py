"""A user's own images: a folder a class, whose name is the label.

    PATH/cat/1.jpg  PATH/dog/7.png  …                      a sixth of each class is set aside to test
    PATH/train/cat/1.jpg  …  PATH/test/cat/3.jpg  …        or the division is the user's

Owns: reading, checking and dividing them. Every image is converted to the network's colours, scaled until it covers
the network's input, and cut out in the middle, as the service's FIT_RESIZE does.
"""

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from training.data import Dataset, Part
from training.errors import DataError

PREFIX = "folder:"
KINDS = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
TEST_SHARE = 6
LEAST = 2  # images of a class, one to learn from and one to test
# Which images are set aside does not depend on the job's seed: runs are compared on the same ones.
TEST_SEED = 0


def load(path: Path, image: tuple[int, int, int]) -> Dataset:
    """Read the images below `path` as (H, W, C) = `image`.

    Raises:
        DataError: there are no classes, a class has too few images, or a file is no image.
    """
    if not path.is_dir():
        raise DataError(f"{path} is not a folder of images by class")
    divided = (path / "train").is_dir() and (path / "test").is_dir()
    labels = _classes(path / "train" if divided else path)
    if len(labels) < 2:
        raise DataError(f"{path} has {len(labels)} folders of images; at least 2 are needed, a class each")
    if divided:
        unknown = set(_classes(path / "test")) - set(labels)
        if unknown:
            raise DataError(f"{path / 'test'} has classes that {path / 'train'} has not: {', '.join(sorted(unknown))}")
        train = _read(path / "train", labels, image, least=1)
        test = _read(path / "test", labels, image, least=1)
    else:
        train, test = _set_aside(_read(path, labels, image, least=LEAST), len(labels))
    return Dataset(f"{PREFIX}{path.resolve().name}", train, test, labels)


def _classes(path: Path) -> tuple[str, ...]:
    return tuple(sorted(entry.name for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith(".")))


def _read(path: Path, labels: tuple[str, ...], image: tuple[int, int, int], *, least: int) -> Part:
    arrays, numbers = [], []
    for number, label in enumerate(labels):
        files = sorted(file for file in (path / label).rglob("*") if file.suffix.lower() in KINDS)
        if len(files) < least:
            raise DataError(f"{path / label} has {len(files)} images ({', '.join(KINDS)}); at least {least} are needed")
        arrays += [_decode(file, image) for file in files]
        numbers += [number] * len(files)
    return Part(torch.from_numpy(np.stack(arrays)), torch.tensor(numbers))


def _decode(file: Path, image: tuple[int, int, int]) -> np.ndarray:
    height, width, channels = image
    try:
        with Image.open(file) as opened:
            upright = ImageOps.exif_transpose(opened).convert("L" if channels == 1 else "RGB")
        fitted = ImageOps.fit(upright, (width, height), Image.Resampling.BILINEAR)
    except (OSError, ValueError, SyntaxError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise DataError(f"{file} is no image that can be read: {error}") from error
    return np.asarray(fitted, np.uint8).reshape(height, width, channels)


def _set_aside(part: Part, classes: int) -> tuple[Part, Part]:
    """(training, test), a share of each class in both."""
    random = torch.Generator().manual_seed(TEST_SEED)
    test = torch.zeros(len(part), dtype=torch.bool)
    for label in range(classes):
        (indices,) = torch.where(part.labels == label)
        order = torch.randperm(len(indices), generator=random)
        test[indices[order[: max(1, len(indices) // TEST_SHARE)]]] = True
    return part[~test], part[test]
