"""Which folders are the classes, and which are splits that the user made.

    PATH/CLASS/…                                            one split, which the job divides
    PATH/train/CLASS/…  PATH/test/CLASS/…                   the user's own splits
    PATH/train/CLASS/…  PATH/val/CLASS/…                    the same: val is held out, so it is the test split
    PATH/train/CLASS/…  PATH/val/CLASS/…  PATH/test/…       all three

Capitals do not matter, nor other words of the field (training, valid, dev, testing, eval …), nor a single folder around
all of it. A layout that could be understood in two ways is refused with the names that were found.

Not here: listing the files (files.py), dividing them (splits.py).
"""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from service.pictures.files import SUFFIXES
from training.data.folder.files import Folder, listed, shown
from training.errors import DataError

TRAIN, VALIDATION, TEST = "train", "validation", "test"
# The only split of a folder that the user did not divide.
WHOLE = "whole"
WORDS = {
    "train": TRAIN, "training": TRAIN, "trn": TRAIN,
    "val": VALIDATION, "valid": VALIDATION, "validation": VALIDATION, "dev": VALIDATION,
    "test": TEST, "testing": TEST, "tst": TEST, "eval": TEST, "evaluation": TEST, "holdout": TEST,
}  # fmt: skip
# Words that may stand beside these: training_set, test-images, seg_train.
FILLERS = frozenset(("set", "data", "split", "images", "image", "imgs", "img", "pictures", "photos", "seg"))
EXPECTED = "expected PATH/CLASS/…, or PATH/train/CLASS/… with PATH/test/CLASS/… and, if you like, PATH/val/CLASS/…"


@dataclass(frozen=True)
class Layout:
    """The label names by class id and, of each split, the folder of each class that it has."""

    labels: tuple[str, ...]
    splits: Mapping[str, Mapping[str, Folder]]  # by TRAIN, VALIDATION and TEST, or WHOLE alone; then by label
    notes: tuple[str, ...]  # what the user may not expect


def find_layout(root: Folder) -> Layout:
    """The layout of the folder.

    Raises:
        DataError: there are fewer than two classes, the name of one cannot be a label, or the folders could mean two
            things; the message names what was found and what is expected.
    """
    if not root.has_pictures:
        raise DataError(f"{shown(root.path)} holds no pictures ({', '.join(SUFFIXES)}); {EXPECTED}")
    base = _unwrapped(root)
    notes = [f"the classes are in {shown(base.path)}, the only folder with pictures"] if base is not root else []
    splits, more = _splits(base)
    notes += more
    if not splits:
        _refuse_splits_in_classes(base)
        notes += _note_same_folders(base)
        splits = {WHOLE: base}
    notes += [
        f"{len(folder.pictures):,} pictures lie beside the class folders in {shown(folder.path)} and are passed over"
        for folder in {id(folder): folder for folder in (base, *splits.values())}.values()
        if folder.pictures
    ]
    first = splits[WHOLE if WHOLE in splits else TRAIN]
    labels = _labels(first)
    classes = {name: _classes(folder, labels, first) for name, folder in splits.items()}
    for name in classes.keys() & {VALIDATION}:
        if missing := [label for label in labels if label not in classes[name]]:
            notes.append(f"{shown(splits[name].path)} has no pictures of {listed([shown(label) for label in missing])}")
    if len({label.casefold() for label in labels}) < len(labels):
        notes.append(f"names of classes differ in capitals alone: {_names(first.folders)}; they are kept apart")
    return Layout(labels, classes, tuple(notes))


def split_words(names: Sequence[str]) -> dict[str, str]:
    """The split that each of these folder names stands for, as far as it stands for one.

    A name with another word, such as birds_train, counts if the same word stands with another split: birds_test.
    """
    parsed: dict[str, tuple[str, tuple[str, ...]]] = {}
    for name in names:
        words = [word.casefold() for word in re.findall(r"[^\W\d_]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name))]
        if len(roles := [WORDS[word] for word in words if word in WORDS]) == 1:
            parsed[name] = roles[0], tuple(word for word in words if word not in WORDS and word not in FILLERS)
    by_rest = defaultdict(set)
    for role, rest in parsed.values():
        by_rest[rest].add(role)
    return {name: role for name, (role, rest) in parsed.items() if not rest or len(by_rest[rest]) > 1}


def _unwrapped(folder: Folder) -> Folder:
    """The folder, or that below it which alone holds all classes or splits."""
    while not folder.pictures:
        holding = [inner for inner in folder.folders if inner.has_pictures]
        others = [inner for inner in folder.folders if not inner.has_pictures]
        if len(holding) != 1 or holding[0].pictures:
            break
        if any(inner.is_empty for inner in others) or split_words([inner.name for inner in others]):
            break
        (folder,) = holding
    return folder


def _splits(base: Folder) -> tuple[dict[str, Folder], list[str]]:
    """The user's splits, none if `base` holds classes; and notes."""
    words = split_words([folder.name for folder in base.folders])
    named = [folder for folder in base.folders if folder.name in words]
    others = [folder for folder in base.folders if folder.name not in words and folder.has_pictures]
    splits = [folder for folder in named if any(inner.has_pictures for inner in folder.folders)]
    splits = [folder for folder in splits if not (folder.pictures and others)]  # a class, with folders of its own
    flat = [folder for folder in named if folder.pictures and folder not in splits]
    if not splits and (len({words[folder.name] for folder in flat}) < 2 and (others or not flat)):
        return {}, []  # classes, one of which may be called train
    where = shown(base.path)
    if flat:
        raise DataError(
            f"{where}: {_names(flat)} hold pictures and no class folders, so the pictures have no labels; {EXPECTED}. "
            "If these are names of classes, give them others, such as trains"
        )
    if empty := [folder for folder in named if not folder.has_pictures]:
        raise DataError(f"{where}: {_names(empty)} hold no pictures; fill or delete them. {EXPECTED}")
    if others:
        raise DataError(
            f"{where}: beside {_names(splits)}, which hold class folders, stand {_names(others)} with pictures; "
            f"{EXPECTED}. Move the others away or, if all of these are classes, give the first ones other names"
        )
    return _by_role(where, [(words[folder.name], folder) for folder in splits])


def _by_role(where: str, found: Sequence[tuple[str, Folder]]) -> tuple[dict[str, Folder], list[str]]:
    """Each split's folder, inside the single folder that may be around its classes; and notes."""
    by_role: dict[str, list[Folder]] = defaultdict(list)
    for role, folder in found:
        by_role[role].append(folder)
    if len(by_role[TEST]) == 2 and not by_role[VALIDATION]:  # test and eval
        evals = [folder for folder in by_role[TEST] if "eval" in folder.name.casefold()]
        if len(evals) == 1:
            by_role[VALIDATION] = evals
            by_role[TEST].remove(evals[0])
    for role, folders in by_role.items():
        if len(folders) > 1:
            raise DataError(f"{where}: {_names(folders)} are {len(folders)} folders for the {role} split; keep one")
    if not by_role[TRAIN] or not (by_role[VALIDATION] or by_role[TEST]):
        raise DataError(f"{where}: found {_names([folder for _, folder in found])} alone; {EXPECTED}")
    splits = {role: _unwrapped(folders[0]) for role, folders in by_role.items() if folders}
    if TEST in splits:
        return splits, []
    held_out = splits.pop(VALIDATION)
    note = f"{shown(held_out.path)} is the test split, as there is no other; validation images are taken from train"
    return splits | {TEST: held_out}, [note]


def _labels(folder: Folder) -> tuple[str, ...]:
    """The names of the class folders, which must be usable as labels."""
    where, names = shown(folder.path), [inner.name for inner in folder.folders]
    for name in names:
        if not _is_label(name):
            raise DataError(
                f"{where} has a class folder whose name {name!r} cannot be one line of labels.txt; rename the folder"
            )
    if len(names) < 2:
        found = f": {_names(folder.folders)}" if names else f" and {len(folder.pictures):,} pictures beside them"
        raise DataError(
            f"{where} has {len(names)} folders of images{found}; at least 2 are needed, one per class; {EXPECTED}"
        )
    by_form = defaultdict(list)
    for name in names:
        by_form[_form(name)].append(name)
    for same in by_form.values():
        if len(same) > 1:
            raise DataError(
                f"{where} has {len(same)} class folders whose names look the same, {' and '.join(map(ascii, same))}: "
                "they are different forms of Unicode; join them, or rename one"
            )
    return tuple(names)


def _classes(folder: Folder, labels: Sequence[str], first: Folder) -> dict[str, Folder]:
    """The folder of each label in a split; `first` is the split whose folders are the labels."""
    by_form = {_form(label): label for label in labels}
    unknown = [inner for inner in folder.folders if _form(inner.name) not in by_form and inner.has_pictures]
    if unknown:
        alike = {label.casefold() for label in labels} & {inner.name.casefold() for inner in unknown}
        hint = " (capitals count)" if alike else ""
        raise DataError(
            f"{shown(folder.path)} has classes that {shown(first.path)} lacks: {_names(unknown)}{hint}; "
            "every class needs pictures to train on"
        )
    return {by_form[_form(inner.name)]: inner for inner in folder.folders if _form(inner.name) in by_form}


def _form(name: str) -> str:
    """The name in one form of Unicode: macOS writes é as two signs where others write one."""
    return unicodedata.normalize("NFC", name)


def _is_label(name: str) -> bool:
    """Whether every reader of labels.txt gets this name back: one line of UTF-8 that is not blank.

    Triton and our service cut at line feeds alone; other readers also cut at the separators of str.splitlines().
    """
    try:
        name.encode()  # a name that is not UTF-8 on disk has surrogates
    except UnicodeEncodeError:
        return False
    return name.splitlines() == [name] and bool(name.strip()) and not name.startswith("\ufeff") and "\0" not in name


def _refuse_splits_in_classes(base: Folder) -> None:
    """Refuse PATH/CLASS/train/… and PATH/CLASS/test/…, whose splits would be joined."""
    for folder in base.folders:
        inner = split_words([inner.name for inner in folder.folders if inner.has_pictures])
        if len(set(inner.values())) > 1 and len(base.folders) > 1:
            raise DataError(
                f"{shown(base.path)}: the class folder {shown(folder.name)} holds the splits "
                f"{listed([shown(name) for name in inner])}; put the splits first: {EXPECTED}"
            )


def _note_same_folders(base: Folder) -> list[str]:
    """A note if classes hold the same folders: these may be the classes, and those above splits of an unknown name."""
    inner = [{inner.name for inner in folder.folders if inner.has_pictures} for folder in base.folders]
    if len(inner) < 2 or any(folder.pictures for folder in base.folders) or len(set.intersection(*inner)) < 2:
        return []
    same = listed([shown(name) for name in sorted(set.intersection(*inner))])
    return [f"each of {_names(base.folders)} is taken as one class, though all of them hold the same folders: {same}"]


def _names(folders: Sequence[Folder]) -> str:
    return listed([shown(folder.name) for folder in folders])
