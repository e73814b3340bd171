"""A user's own images as a data set: one folder per class; the folder's name is the label.

    PATH/cat/1.jpg  PATH/dog/7.png  …                      one image in six of each class becomes a test image
    PATH/train/cat/1.jpg  …  PATH/test/cat/3.jpg  …        the user's own splits

The code that the service decodes and fits pictures with makes the images, so that a file that is sent to the service
reaches the network as the image that it was taught.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from service.pictures.files import SUFFIXES, BadPicture
from service.pictures.fit import Fit
from service.pictures.fitting import fit_file
from training.data.dataset import Dataset, Split
from training.errors import DataError

PREFIX = "folder:"
# Of each class, one image in this number becomes a test image.
IMAGES_PER_TEST_IMAGE = 6
# One to train on and one to test on.
MIN_IMAGES_PER_CLASS = 2
# Fixed, so that runs with different seeds are compared on the same test images.
TEST_SEED = 0
# Files that one message names; the others are counted.
MAX_NAMED = 10


def load(path: Path, image_shape: tuple[int, int, int], fit: Fit) -> Dataset:
    """Read the pictures below `path`, each fitted to `image_shape` (H, W, C).

    Raises:
        DataError: there are fewer than two classes, the name of one cannot be a label, a class has too few images, or
            files are no readable pictures or do not fit.
    """
    if not path.is_dir():
        raise DataError(f"{path} is not a folder of images by class")
    has_splits = (path / "train").is_dir() and (path / "test").is_dir()
    labels = _classes(path / "train" if has_splits else path)
    for label in labels:
        if not _is_label(label):
            raise DataError(
                f"{path} has a class folder whose name {label!r} cannot be one line of labels.txt; rename the folder"
            )
    if len(labels) < 2:
        raise DataError(f"{path} has {len(labels)} folders of images; at least 2 are needed, one per class")
    if has_splits:
        unknown = set(_classes(path / "test")) - set(labels)
        if unknown:
            raise DataError(f"{path / 'test'} has classes that {path / 'train'} lacks: {', '.join(sorted(unknown))}")
        found = [_files(path / split, labels, min_images=1) for split in ("train", "test")]
        files, class_ids = found[0][0] + found[1][0], found[0][1] + found[1][1]
        is_test = torch.arange(len(files)) >= len(found[0][0])
    else:
        files, class_ids = _files(path, labels, min_images=MIN_IMAGES_PER_CLASS)
        is_test = _choose_test(torch.tensor(class_ids), len(labels))
    images = Split(torch.from_numpy(np.stack(_read(path, files, image_shape, fit))), torch.tensor(class_ids))
    test_files = tuple(file for file, test in zip(files, is_test.tolist(), strict=True) if test)
    return Dataset(f"{PREFIX}{path.resolve().name}", images[~is_test], images[is_test], labels, test_files)


def _classes(path: Path) -> tuple[str, ...]:
    return tuple(sorted(entry.name for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith(".")))


def _is_label(name: str) -> bool:
    """Whether every reader of labels.txt gets this name back: one line of UTF-8 that is not blank.

    Triton and our service cut at line feeds alone; other readers also cut at the separators of str.splitlines().
    """
    try:
        name.encode()  # a name that is not UTF-8 on disk has surrogates
    except UnicodeEncodeError:
        return False
    return name.splitlines() == [name] and bool(name.strip()) and not name.startswith("\ufeff") and "\0" not in name


def _files(path: Path, labels: Sequence[str], *, min_images: int) -> tuple[list[Path], list[int]]:
    """The picture files below the folders of the classes, class by class, and the class id of each."""
    files: list[Path] = []
    class_ids: list[int] = []
    for class_id, label in enumerate(labels):
        of_class = sorted(file for file in (path / label).rglob("*") if _is_picture(file.relative_to(path / label)))
        if len(of_class) < min_images:
            raise DataError(
                f"{path / label} has {len(of_class)} images ({', '.join(SUFFIXES)}); at least {min_images} are needed"
            )
        files += of_class
        class_ids += [class_id] * len(of_class)
    return files, class_ids


def _is_picture(file: Path) -> bool:
    """Whether the name is that of a picture; hidden ones are copies: macOS's ._NAME, thumbnails, the trash."""
    return file.suffix.lower() in SUFFIXES and not any(part.startswith(".") for part in file.parts)


def _read(path: Path, files: Sequence[Path], image_shape: tuple[int, int, int], fit: Fit) -> list[NDArray[np.uint8]]:
    """The image of each file; one error names every file that has none, so that they cost one run."""
    images, wrong = [], []
    for file in files:
        try:
            images.append(fit_file(file.read_bytes(), image_shape, fit))
        except (OSError, BadPicture) as error:
            wrong.append(f"{file.relative_to(path)}: {error}")
    if wrong:
        more = [f"and {len(wrong) - MAX_NAMED} more"] if len(wrong) > MAX_NAMED else []
        raise DataError(
            f"{len(wrong)} of {len(files)} files below {path} cannot be used with --fit {fit.method}: "
            + "; ".join(wrong[:MAX_NAMED] + more)
        )
    return images


def _choose_test(class_ids: Tensor, classes: int) -> Tensor:
    """Which images are test images (N,), so that every class is in both splits."""
    random = torch.Generator().manual_seed(TEST_SEED)
    is_test = torch.zeros(len(class_ids), dtype=torch.bool)
    for class_id in range(classes):
        (indices,) = torch.where(class_ids == class_id)
        order = torch.randperm(len(indices), generator=random)
        is_test[indices[order[: max(1, len(indices) // IMAGES_PER_TEST_IMAGE)]]] = True
    return is_test
