"""A user's own images as a data set: one folder per class; the folder's name is the label.

    PATH/cat/1.jpg  PATH/dog/7.png  …                      one image in six of each class becomes a test image
    PATH/train/cat/1.jpg  …  PATH/test/cat/3.jpg  …        the user's own splits

Every image is converted to the network's number of channels, scaled until it covers the network's input, and
centre-cropped, as the service does with FIT_RESIZE.
"""

from pathlib import Path

import numpy as np
import torch

from service.pictures.files import SUFFIXES, BadPicture
from service.pictures.fit import RESIZE, Fit
from service.pictures.fitting import fit_file
from training.dataset import Dataset, Split
from training.errors import DataError

PREFIX = "folder:"
# Of each class, one image in this number becomes a test image.
IMAGES_PER_TEST_IMAGE = 6
# One to train on and one to test on.
MIN_IMAGES_PER_CLASS = 2
# Fixed, so that runs with different seeds are compared on the same test images.
TEST_SEED = 0


def load(path: Path, image_shape: tuple[int, int, int]) -> Dataset:
    """Read the images below `path`, each resized to `image_shape` (H, W, C).

    Raises:
        DataError: there are fewer than two classes, the name of one cannot be a label, a class has too few images, or a
            file is not a readable image.
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
        train = _read(path / "train", labels, image_shape, min_images=1)
        test = _read(path / "test", labels, image_shape, min_images=1)
    else:
        images = _read(path, labels, image_shape, min_images=MIN_IMAGES_PER_CLASS)
        train, test = _split_test(images, len(labels))
    return Dataset(f"{PREFIX}{path.resolve().name}", train, test, labels)


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


def _read(path: Path, labels: tuple[str, ...], image_shape: tuple[int, int, int], *, min_images: int) -> Split:
    images, class_ids = [], []
    for class_id, label in enumerate(labels):
        files = sorted(file for file in (path / label).rglob("*") if file.suffix.lower() in SUFFIXES)
        if len(files) < min_images:
            raise DataError(
                f"{path / label} has {len(files)} images ({', '.join(SUFFIXES)}); at least {min_images} are needed"
            )
        images += [_decode(file, image_shape) for file in files]
        class_ids += [class_id] * len(files)
    return Split(torch.from_numpy(np.stack(images)), torch.tensor(class_ids))


def _decode(file: Path, image_shape: tuple[int, int, int]) -> np.ndarray:
    try:
        return fit_file(file.read_bytes(), image_shape, Fit(RESIZE))
    except (OSError, BadPicture) as error:
        raise DataError(f"{file} is not a readable image: {error}") from error


def _split_test(images: Split, classes: int) -> tuple[Split, Split]:
    """(training, test), with every class in both."""
    random = torch.Generator().manual_seed(TEST_SEED)
    is_test = torch.zeros(len(images), dtype=torch.bool)
    for class_id in range(classes):
        (indices,) = torch.where(images.labels == class_id)
        order = torch.randperm(len(indices), generator=random)
        is_test[indices[order[: max(1, len(indices) // IMAGES_PER_TEST_IMAGE)]]] = True
    return images[~is_test], images[is_test]
