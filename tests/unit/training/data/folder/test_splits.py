"""Test images are chosen by their content; copies, contradictions and small classes are said."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from training.data.folder.layout import TEST, TRAIN, VALIDATION, WHOLE
from training.data.folder.splits import Labelled, choose_test, describe, leave_out_copies

LABELS = ("cat", "dog")


def picture(content: object, class_id: int = 0, split: str = WHOLE, name: str = "") -> Labelled:
    digest = hashlib.sha256(str(content).encode()).digest()
    return Labelled(0, Path(name or f"{split}/{LABELS[class_id]}/{content}.png"), class_id, split, digest)


def files_of_test(pictures: Sequence[Labelled]) -> set[Path]:
    is_test, _ = choose_test(pictures, LABELS)
    return {p.file for p, test in zip(pictures, is_test, strict=True) if test}


def two_classes(count: int) -> list[Labelled]:
    return [picture((class_id, number), class_id) for class_id in (0, 1) for number in range(count)]


def test_about_one_image_in_six_of_each_class_is_a_test_image() -> None:
    pictures = two_classes(3000)
    chosen = files_of_test(pictures)
    counts = Counter(p.class_id for p in pictures if p.file in chosen)
    assert all(400 < counts[class_id] < 600 for class_id in (0, 1))


@pytest.mark.parametrize("count", [42, 600])
def test_an_image_that_is_added_deleted_or_renamed_moves_no_other(count: int) -> None:
    pictures = two_classes(count)
    before = files_of_test(pictures)
    for number in range(20):
        added = picture(f"new {number}", 1, name="dog/new.png")
        assert files_of_test([added, *pictures]) - {added.file} == before
        deleted = pictures[number]
        assert files_of_test(pictures[:number] + pictures[number + 1 :]) == before - {deleted.file}
    assert files_of_test(pictures[::-1]) == before


@pytest.mark.parametrize("count", range(2, 12))
def test_a_small_class_has_images_on_both_sides(count: int) -> None:
    for first in range(50):
        pictures = [picture((class_id, first, n), class_id) for class_id in (0, 1) for n in range(count)]
        is_test, notes = choose_test(pictures, LABELS)
        assert {(p.class_id, test) for p, test in zip(pictures, is_test, strict=True)} == {
            (0, False), (0, True), (1, False), (1, True),
        }  # fmt: skip
        assert not notes


def test_copies_stay_together() -> None:
    pictures = two_classes(60)
    copies = [picture((1, number % 60), 1, name=f"dog/copy {number}.png") for number in range(180)]
    is_test, _ = choose_test([*pictures, *copies], LABELS)
    sides = {(p.digest, test) for p, test in zip([*pictures, *copies], is_test, strict=True)}
    assert len(sides) == 120


def test_a_class_of_one_image_is_divided_and_said() -> None:
    pictures = [picture("red", class_id, name=f"{class_id}/{n}.png") for class_id in (0, 1) for n in range(6)]
    is_test, notes = choose_test(pictures, LABELS)
    assert sum(is_test) == 2 and len(notes) == 2
    assert "class cat has no two different images" in notes[0] and "class dog" in notes[1]


def test_a_copy_of_an_image_held_out_is_not_trained_on_and_both_files_are_named() -> None:
    pictures = [
        *(picture(number, 0, TRAIN) for number in range(4)),
        picture(2, 0, VALIDATION), picture(3, 0, VALIDATION), picture(3, 1, TEST), picture("own", 0, TEST),
    ]  # fmt: skip
    stays, notes = leave_out_copies(pictures, LABELS)
    assert stays == [True, True, False, False, True, False, True, True]
    assert notes == [
        "2 train pictures are copies of pictures held out, and are left out: "
        "train/cat/2.png = validation/cat/2.png, train/cat/3.png = test/dog/3.png",
        "1 validation pictures are copies of pictures held out, and are left out: "
        "validation/cat/3.png = test/dog/3.png",
    ]


def test_a_class_that_has_only_copies_to_train_on_keeps_them_and_is_said() -> None:
    pictures = [picture(1, 0, TRAIN), picture(1, 0, TEST), picture(2, 1, TRAIN), picture(3, 1, TEST)]
    stays, notes = leave_out_copies(pictures, LABELS)
    assert stays == [True] * 4
    assert notes == [
        "all training pictures of cat are copies of pictures held out; they stay, and the accuracy says nothing of "
        "these classes"
    ]


def test_copies_and_images_with_two_labels_are_named() -> None:
    again = [picture((0, 2), 0, name="cat/2 again.png"), picture((0, 2), 1, name="dog/2 too.png")]
    pictures = [*two_classes(20), picture((0, 1), 0, name="cat/again.png"), *again]
    assert describe(pictures, LABELS) == [
        "3 pictures are copies of others; with this fit, they are the same image: "
        "whole/cat/(0, 1).png = cat/again.png, whole/cat/(0, 2).png = cat/2 again.png = dog/2 too.png",
        "1 images have more than one label: whole/cat/(0, 2).png = dog/2 too.png",
    ]


def test_small_and_unbalanced_classes_are_said_and_others_are_not() -> None:
    assert describe(two_classes(10), LABELS) == []
    pictures = [picture(number, number >= 99) for number in range(108)]
    assert describe(pictures, LABELS) == [
        "classes with fewer than 10 pictures: dog 9",
        "the classes are unbalanced: cat has 99 pictures, dog has 9",
    ]
