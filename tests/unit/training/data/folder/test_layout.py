"""The layouts that people have are understood, or refused with the names of what was found."""

import unicodedata
from pathlib import Path

import pytest

from training.data.folder.files import scan
from training.data.folder.layout import TEST, TRAIN, VALIDATION, WHOLE, Layout, find_layout, split_words
from training.errors import DataError

CLASSES = ("ants", "bees")
COMPOSED = "é"
DECOMPOSED = unicodedata.normalize("NFD", COMPOSED)


def layout(root: Path, *folders: str) -> Layout:
    """The layout of these folders, each with one picture; those that end with / are empty."""
    for folder in folders:
        (root / folder).mkdir(parents=True, exist_ok=True)
        if not folder.endswith("/"):
            (root / folder / "1.png").touch()
    return find_layout(scan(root)[0])


def refusal(root: Path, *folders: str) -> str:
    with pytest.raises(DataError) as caught:
        layout(root, *folders)
    return str(caught.value)


def of(*splits: str) -> list[str]:
    return [f"{split}/{label}" for split in splits for label in CLASSES]


def folders_of(found: Layout, root: Path) -> dict[str, set[str]]:
    return {
        split: {str(folder.path.relative_to(root)) for folder in classes.values()}
        for split, classes in found.splits.items()
    }


def test_class_folders_are_one_split(tmp_path: Path) -> None:
    found = layout(tmp_path, *CLASSES)
    assert found.labels == CLASSES and folders_of(found, tmp_path) == {WHOLE: {"ants", "bees"}} and not found.notes


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("train", "test"), ("Train", "Test"), ("TRAIN", "TEST"), ("training", "testing"), ("train", "eval"),
        ("training_set", "test_set"), ("TrainImages", "TestImages"), ("seg_train", "seg_test"), ("trn", "holdout"),
        ("birds-train", "birds-test"), ("01_train", "02_test"), ("Training Data", "Evaluation Data"),
        ("train2017", "test2017"),
    ],
)  # fmt: skip
def test_train_and_test_are_understood_in_the_words_of_the_field(tmp_path: Path, train: str, test: str) -> None:
    found = layout(tmp_path, *of(train, test))
    assert found.labels == CLASSES and not found.notes
    assert folders_of(found, tmp_path) == {TRAIN: set(of(train)), TEST: set(of(test))}


@pytest.mark.parametrize("val", ["val", "Val", "valid", "VALID", "validation", "dev", "validation_set"])
def test_with_train_and_val_alone_val_is_the_test_split_and_a_note_says_so(tmp_path: Path, val: str) -> None:
    """The layout of PyTorch's transfer learning tutorial."""
    found = layout(tmp_path, *of("train", val))
    assert found.labels == CLASSES
    assert folders_of(found, tmp_path) == {TRAIN: set(of("train")), TEST: set(of(val))}
    assert found.notes == (
        f"{tmp_path / val} is the test split, as there is no other; validation images are taken from train",
    )


@pytest.mark.parametrize(("val", "test"), [("val", "test"), ("dev", "TEST"), ("eval", "test"), ("Valid", "Testing")])
def test_with_all_three_val_is_the_validation_split(tmp_path: Path, val: str, test: str) -> None:
    found = layout(tmp_path, *of("train", val, test))
    assert folders_of(found, tmp_path) == {TRAIN: set(of("train")), VALIDATION: set(of(val)), TEST: set(of(test))}


@pytest.mark.parametrize("around", ["dataset", "images", "a/b/c", "train", "test", "my data"])
def test_a_single_folder_around_the_classes_is_seen_through_and_a_note_says_so(tmp_path: Path, around: str) -> None:
    found = layout(tmp_path, *of(around))
    assert folders_of(found, tmp_path) == {WHOLE: set(of(around))}
    assert found.notes == (f"the classes are in {tmp_path / around}, the only folder with pictures",)


def test_a_single_folder_around_the_splits_or_inside_each_is_seen_through(tmp_path: Path) -> None:
    found = layout(tmp_path / "outer", *of("dataset/train", "dataset/val", "dataset/test"))
    assert set(found.splits) == {TRAIN, VALIDATION, TEST}
    found = layout(tmp_path / "inner", *of("seg_train/seg_train", "seg_test/seg_test"))
    assert found.labels == CLASSES and set(found.splits) == {TRAIN, TEST}


def test_folders_without_pictures_beside_the_splits_or_around_the_classes_do_not_count(tmp_path: Path) -> None:
    (tmp_path / "annotations").mkdir(parents=True)
    (tmp_path / "annotations" / "1.xml").touch()
    assert layout(tmp_path, *of("train", "test")).labels == CLASSES
    (tmp_path / "other" / "annotations").mkdir(parents=True)
    (tmp_path / "other" / "annotations" / "1.xml").touch()
    assert layout(tmp_path / "other", *of("images")).labels == CLASSES


def test_a_class_may_be_called_train_if_its_pictures_lie_in_it(tmp_path: Path) -> None:
    found = layout(tmp_path, "train", "car", "bus")
    assert found.labels == ("bus", "car", "train") and set(found.splits) == {WHOLE}


def test_classes_whose_names_hold_a_word_of_a_split_are_classes(tmp_path: Path) -> None:
    names = ("test tube/a", "train station/a", "Val d'Isère/a", "trainer/a")
    assert len(layout(tmp_path, *names).labels) == 4
    assert split_words(["test tube", "training shoe", "dev board"]) == {}


@pytest.mark.parametrize(
    ("folders", "texts"),
    [
        (["train", "test"], ["test, train hold pictures and no class folders"]),
        (["train", "test", "extra"], ["test, train hold pictures and no class folders"]),
        (["train"], ["train hold pictures and no class folders"]),
        ([*of("train"), "test"], ["test hold pictures and no class folders"]),
        ([*of("train"), "test/"], ["test hold no pictures; fill or delete them"]),
        (["train/", "test/"], ["holds no pictures (.png"]),
        ([*of("train", "test"), "car"], ["beside test, train, which hold class folders, stand car with pictures"]),
        ([*of("train"), "car", "bus"], ["beside train, which hold class folders, stand bus, car with pictures"]),
        (of("val", "test"), ["found test, val alone"]),
        (of("train", "val", "dev"), ["dev, val are 2 folders for the validation split; keep one"]),
        (of("Train", "train", "test"), ["Train, train are 2 folders for the train split; keep one"]),
        ([*of("train", "test"), "test/wasps"], ["has classes that", "lacks: wasps"]),
        ([*of("train", "val", "test"), "val/wasps"], ["val has classes that", "lacks: wasps"]),
        ([*of("train"), "test/ants", "test/Bees"], ["lacks: Bees (capitals count)"]),
        (["ants/train", "ants/test", "bees/train", "bees/test"], ["class folder ants holds the splits test, train"]),
        (["ants"], ["has 1 folders of images: ants; at least 2 are needed"]),
        (["ants", "bees/"], []),
        ([], ["holds no pictures (.png"]),
        (["."], ["has 0 folders of images and 1 pictures beside them"]),
        ([COMPOSED, DECOMPOSED], ["2 class folders whose names look the same", "'\\xe9'", "'e\\u0301'"]),
    ],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, list) else None,
)  # fmt: skip
def test_what_is_not_understood_is_refused_by_name(tmp_path: Path, folders: list[str], texts: list[str]) -> None:
    if not texts:  # the folder of a class may be found empty later, by the number of its pictures
        assert layout(tmp_path, *folders).labels == CLASSES
        return
    message = refusal(tmp_path, *folders)
    assert str(tmp_path) in message
    for text in texts:
        assert text in message


def test_a_refused_layout_names_the_layouts_that_are_expected(tmp_path: Path) -> None:
    assert "expected PATH/CLASS/…, or PATH/train/CLASS/…" in refusal(tmp_path, *of("train"), "car")


def test_the_same_class_in_two_forms_of_unicode_is_one_class_of_two_splits(tmp_path: Path) -> None:
    """A Mac writes é as two signs."""
    found = layout(tmp_path, f"train/{COMPOSED}", "train/bar", f"test/{DECOMPOSED}", "test/bar")
    assert found.labels == ("bar", COMPOSED) and set(found.splits[TEST]) == {"bar", COMPOSED}


def test_classes_that_differ_in_capitals_are_kept_and_said(tmp_path: Path) -> None:
    """Handwritten letters have classes a and A."""
    found = layout(tmp_path, "A", "a", "b")
    assert found.labels == ("A", "a", "b")
    assert found.notes == ("names of classes differ in capitals alone: A, a, b; they are kept apart",)


def test_a_class_that_the_validation_split_lacks_is_said(tmp_path: Path) -> None:
    found = layout(tmp_path, *of("train", "test"), "val/ants")
    assert found.notes == (f"{tmp_path / 'val'} has no pictures of bees",)


def test_pictures_beside_the_class_folders_are_said(tmp_path: Path) -> None:
    assert layout(tmp_path, ".", *CLASSES).notes == (
        f"1 pictures lie beside the class folders in {tmp_path} and are passed over",
    )


def test_classes_that_hold_the_same_folders_are_said_to_be_taken_as_classes(tmp_path: Path) -> None:
    assert layout(tmp_path, *of("fold1", "fold2")).notes == (
        "each of fold1, fold2 is taken as one class, though all of them hold the same folders: ants, bees",
    )
