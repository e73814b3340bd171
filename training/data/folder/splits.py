"""Which images are test images, and which are copies of each other.

A hash of each image's pixels decides, so that a file that is added, deleted or renamed moves no other image, and copies
stay together. Copies are files that give the same image after they were fitted.

Not here: the validation split, which dataset.py takes from the training split in the same way.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from training.data.content import position
from training.data.folder.files import listed, shown
from training.data.folder.layout import TEST, TRAIN, VALIDATION

# Of each class, about one image in this number becomes a test image.
IMAGES_PER_TEST_IMAGE = 6
# Classes with fewer pictures are said, and a ratio of the largest to the smallest class above this.
SMALL_CLASS, UNBALANCED = 10, 10
# A copy of an image of an earlier split is left out of a later one.
PRECEDENCE = (TEST, VALIDATION, TRAIN)


@dataclass(frozen=True)
class Labelled:
    """A picture that was read."""

    row: int  # of its image
    file: Path  # below the data set's folder
    class_id: int
    split: str
    digest: bytes  # of its image's pixels


def choose_test(pictures: Sequence[Labelled], labels: Sequence[str]) -> tuple[list[bool], list[str]]:
    """Which pictures are test images, so that each class is on both sides; and notes.

    A class whose images are all the same is divided too, as nothing else is left to do; a note says so.
    """
    of_class: dict[int, list[int]] = defaultdict(list)
    for index, picture in enumerate(pictures):
        of_class[picture.class_id].append(index)
    ordered = {
        class_id: sorted({pictures[index].digest for index in indices}, key=_test_position)
        for class_id, indices in of_class.items()
    }
    test = {d for digests in ordered.values() for d in digests if _test_position(d) < 1 / IMAGES_PER_TEST_IMAGE}
    for digests in ordered.values():
        if test.isdisjoint(digests):
            test.add(digests[0])
    for digests in ordered.values():
        if test.issuperset(digests):
            test.remove(digests[-1])
    is_test, notes = [picture.digest in test for picture in pictures], []
    for class_id, indices in of_class.items():
        if len({is_test[index] for index in indices}) < 2:
            for number, index in enumerate(indices):
                is_test[index] = number < max(1, len(indices) // IMAGES_PER_TEST_IMAGE)
            notes.append(
                f"class {shown(labels[class_id])} has no two different images, or the same ones as other classes: "
                "copies are in training and in test, and the test accuracy says nothing of it"
            )
    return is_test, notes


def _test_position(digest: bytes) -> float:
    return position(digest, "test")


def leave_out_copies(pictures: Sequence[Labelled], labels: Sequence[str]) -> tuple[list[bool], list[str]]:
    """Which pictures of the user's splits stay, and notes: a copy of a test picture is not trained on.

    If nothing else is left to train on of a class, its copies stay; a note says so.
    """
    first: dict[bytes, Labelled] = {}
    for split in PRECEDENCE:
        for picture in pictures:
            if picture.split == split:
                first.setdefault(picture.digest, picture)
    stays = [first[picture.digest].split == picture.split for picture in pictures]
    taught = {
        picture.class_id for picture, stay in zip(pictures, stays, strict=True) if stay and picture.split == TRAIN
    }
    only_copies = sorted({picture.class_id for picture in pictures if picture.split == TRAIN} - taught)
    stays = [
        stay or (picture.split == TRAIN and picture.class_id not in taught)
        for picture, stay in zip(pictures, stays, strict=True)
    ]
    notes = []
    if only_copies:
        notes.append(
            f"all training pictures of {listed([shown(labels[class_id]) for class_id in only_copies])} are copies of "
            "pictures held out; they stay, and the accuracy says nothing of these classes"
        )
    for split in (TRAIN, VALIDATION):
        left = [picture for picture, stay in zip(pictures, stays, strict=True) if not stay and picture.split == split]
        if left:
            pairs = [f"{shown(picture.file)} = {shown(first[picture.digest].file)}" for picture in left]
            notes.append(
                f"{len(left):,} {split} pictures are copies of pictures held out, and are left out: {listed(pairs)}"
            )
    return stays, notes


def describe(pictures: Sequence[Labelled], labels: Sequence[str]) -> list[str]:
    """What a user should know of the pictures: copies, copies under two labels, small and unbalanced classes."""
    groups: dict[bytes, list[Labelled]] = defaultdict(list)
    for picture in pictures:
        groups[picture.digest].append(picture)
    copies = [group for group in groups.values() if len(group) > 1]
    of_each_label = [list({picture.class_id: picture for picture in reversed(group)}.values()) for group in copies]
    two_labels = [group[::-1] for group in of_each_label if len(group) > 1]
    counts = Counter(picture.class_id for picture in pictures)
    notes = []
    if copies:
        extra = sum(len(group) - 1 for group in copies)
        notes.append(
            f"{extra:,} pictures are copies of others; with this fit, they are the same image: {listed(_equal(copies))}"
        )
    if two_labels:
        notes.append(f"{len(two_labels):,} images have more than one label: {listed(_equal(two_labels))}")
    if small := [f"{shown(labels[i])} {count}" for i, count in sorted(counts.items()) if count < SMALL_CLASS]:
        notes.append(f"classes with fewer than {SMALL_CLASS} pictures: {listed(small)}")
    (largest, most), (smallest, fewest) = counts.most_common()[0], counts.most_common()[-1]
    if most > UNBALANCED * fewest:
        notes.append(
            f"the classes are unbalanced: {shown(labels[largest])} has {most:,} pictures, "
            f"{shown(labels[smallest])} has {fewest:,}"
        )
    return notes


def _equal(groups: Sequence[Sequence[Labelled]]) -> list[str]:
    """For example `a/1.png = a/2.png`, for each group of copies."""
    return [listed([shown(picture.file) for picture in group], " = ") for group in groups]
