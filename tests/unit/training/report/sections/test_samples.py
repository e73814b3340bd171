"""Galleries show all classes in turn."""

import pytest
import torch

from tests.support import reports
from training.report.sections.samples import AUGMENTATIONS, augmented_images, balanced, training_images


def test_images_are_chosen_from_all_classes_in_turn() -> None:
    labels = torch.tensor([0] * 100 + [1] * 3 + [2] * 50)  # as a folder is read: class by class
    assert labels[balanced(labels, 12)].tolist() == [0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 2, 0]
    assert balanced(labels, 200).sort().values.tolist() == list(range(153)), "all, each once"
    assert labels[balanced(labels[:0], 3)].tolist() == []


def test_of_more_classes_than_images_evenly_chosen_ones_are_shown() -> None:
    labels = torch.arange(1000).repeat_interleave(2)
    chosen = labels[balanced(labels, 40)].tolist()
    assert len(set(chosen)) == 40 and chosen[0] == 0 and chosen[-1] == 999 and chosen == sorted(chosen)


def test_training_images_are_those_of_the_training_part_and_of_all_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    images = training_images(reports.report_input(monkeypatch, reports.convolution))["images"]
    assert [label for _, label in images] == [str(number % 10) for number in range(40)]


def test_an_image_is_shown_as_it_is_and_augmented_several_times(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = augmented_images(reports.report_input(monkeypatch, reports.convolution))["rows"]
    for _, original, changed in rows:
        assert len({original, *changed}) == 1 + AUGMENTATIONS, "all differ"
