"""The manifest records the commit that an image was built from."""

import pytest
import torch

from training import export, manifest


def test_golden_samples_are_the_first_and_the_least_confident_correct_image_of_each_class() -> None:
    labels = torch.tensor([0, 0, 0, 1, 1, 2])
    of_true_class = torch.tensor([0.9, 0.6, 0.8, 0.7, 0.9, 0.3])  # the last image is misclassified as 0
    probabilities = torch.full((6, 3), 0.0)
    probabilities[range(6), labels] = of_true_class
    probabilities[range(6), (labels + 1) % 3] = 1 - of_true_class
    assert export.golden_samples(probabilities, labels).tolist() == [0, 1, 3, 5]


def test_the_manifest_records_the_commit_that_an_image_was_built_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIMPLECNN_COMMIT", "c0ffee")
    assert manifest.code_commit() == "c0ffee"
    monkeypatch.setenv("SIMPLECNN_COMMIT", "")
    assert manifest.code_commit() != ""
