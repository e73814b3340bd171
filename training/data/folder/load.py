"""Loads a user's own pictures as a data set.

    PATH/cat/1.jpg  PATH/dog/7.png  …                      about one image in six of each class becomes a test image
    PATH/train/cat/1.jpg  …  PATH/test/cat/3.jpg  …        the user's own splits

Not here: the other layouts that are understood (layout.py), and every step by itself.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from service.pictures.files import SUFFIXES
from service.pictures.fit import Fit
from training.data.dataset import Dataset, Split
from training.data.folder.files import listed, scan, shown
from training.data.folder.layout import TEST, TRAIN, VALIDATION, WHOLE, Layout, find_layout
from training.data.folder.memory import check_memory
from training.data.folder.reading import Say, read_pictures
from training.data.folder.splits import Labelled, choose_test, describe, leave_out_copies
from training.errors import DataError

PREFIX = "folder:"
# One to train on and one to test on.
MIN_IMAGES_PER_CLASS = 2


def load(
    path: Path,
    image_shape: tuple[int, int, int],
    fit: Fit,
    *,
    data_dir: Path,
    skip_unreadable: bool = False,
    say: Say | None = None,
) -> Dataset:
    """Read the pictures below `path`, each fitted to `image_shape` (H, W, C); the cache is below `data_dir`.

    Files that cannot be used are an error, unless `skip_unreadable`. `say` gets a line for each thing that the user may
    not expect of the data.

    Raises:
        DataError: the folders are not those of classes and splits (see find_layout()), a class has too few pictures,
            files cannot be used, or the images do not fit into memory.
    """
    tell: Say = say or (lambda _: None)
    if not path.is_dir():
        raise DataError(f"{shown(path)} is not a folder of images by class")
    tree, passed = scan(path)
    layout = find_layout(tree)
    if passed:
        tell("passed over: " + ", ".join(f"{count:,} {kind}" for kind, count in passed.most_common()))
    for note in layout.notes:
        tell(note)
    listing = _list_files(layout)
    _check_counts(Counter((split, class_id) for _, class_id, split in listing), layout)
    tell(check_memory(len(listing), image_shape))
    files = [file for file, _, _ in listing]
    read = read_pictures(path, files, image_shape, fit, data_dir=data_dir, say=say)
    if read.problems:
        message = _unusable(path, len(files), read.problems, fit)
        if not skip_unreadable:
            raise DataError(f"{message}; mend or delete them, or go on without them by --skip-unreadable")
        tell(f"left out: {message}")
    pictures = [
        Labelled(row, file.relative_to(path), class_id, split, digest)
        for row, ((file, class_id, split), digest) in enumerate(zip(listing, read.digests, strict=True))
        if digest is not None
    ]
    _check_counts(Counter((picture.split, picture.class_id) for picture in pictures), layout)
    pictures, notes = _divided(pictures, layout)
    for note in [*notes, *describe(pictures, layout.labels)]:
        tell(note)
    copies = len(listing) - len(read.problems) - len(pictures)
    excluded = {reason: n for reason, n in (("unreadable", len(read.problems)), ("copies", copies)) if n}
    return _dataset(path, layout.labels, torch.from_numpy(read.images), pictures, excluded)


def _list_files(layout: Layout) -> list[tuple[Path, int, str]]:
    """Every picture file, with its class id and split: split by split, and class by class."""
    return [
        (file, class_id, split)
        for split, classes in layout.splits.items()
        for class_id, label in enumerate(layout.labels)
        if label in classes
        for file in classes[label].all_pictures()
    ]


def _check_counts(counts: Mapping[tuple[str, int], int], layout: Layout) -> None:
    """Check that each class has enough pictures in each split; a validation split need not have all classes."""
    for split, classes in layout.splits.items():
        least = {WHOLE: MIN_IMAGES_PER_CLASS, VALIDATION: 0}.get(split, 1)
        for class_id, label in enumerate(layout.labels):
            if (count := counts.get((split, class_id), 0)) < least:
                where = classes[label].path if label in classes else f"{split} split of {shown(label)}"
                raise DataError(
                    f"{shown(where)} has {count} images ({', '.join(SUFFIXES)}); at least {least} are needed"
                )


def _unusable(path: Path, count: int, problems: Mapping[Path, str], fit: Fit) -> str:
    """The files that cannot be used, as far as one message names them, so that they cost one run."""
    named = [f"{shown(file.relative_to(path))}: {why}" for file, why in problems.items()]
    return (
        f"{len(named):,} of {count:,} files below {shown(path)} cannot be used with --fit {fit.method}: "
        f"{listed(named, '; ')}"
    )


def _divided(pictures: Sequence[Labelled], layout: Layout) -> tuple[list[Labelled], list[str]]:
    """The pictures that stay, each in the split that it belongs to; and notes."""
    if WHOLE in layout.splits:
        is_test, notes = choose_test(pictures, layout.labels)
        return [
            replace(picture, split=TEST if test else TRAIN) for picture, test in zip(pictures, is_test, strict=True)
        ], notes
    stays, notes = leave_out_copies(pictures, layout.labels)
    return [picture for picture, stay in zip(pictures, stays, strict=True) if stay], notes


def _dataset(
    path: Path, labels: tuple[str, ...], images: Tensor, pictures: Sequence[Labelled], excluded: Mapping[str, int]
) -> Dataset:
    by_split: dict[str, list[Labelled]] = {TRAIN: [], VALIDATION: [], TEST: []}
    for picture in pictures:
        by_split[picture.split].append(picture)

    def split(name: str) -> Split:
        rows = torch.tensor([picture.row for picture in by_split[name]])
        return Split(images[rows], torch.tensor([picture.class_id for picture in by_split[name]]))

    return Dataset(
        f"{PREFIX}{path.resolve().name}",
        split(TRAIN),
        split(TEST),
        labels,
        test_files=tuple(path / picture.file for picture in by_split[TEST]),
        validation=split(VALIDATION) if by_split[VALIDATION] else None,
        is_split_by_content=True,
        excluded=excluded,
    )
