"""Test files get the labels that their images got, or nothing is published."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from service.pictures.fit import RESIZE, Fit
from training.data.dataset import Dataset
from training.data.folder.load import load
from training.errors import FileMismatch
from training.publishing import file_check

FIT = Fit(RESIZE)


def brightness(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """A graph: the probabilities of a dark and of a light image."""
    light = images.mean((1, 2, 3), np.float32) / 255
    return np.stack([1 - light, light], 1)


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """A folder of 3 dark and 3 light test pictures."""
    for split in ("train", "test"):
        for label, level in (("dark", 30), ("light", 220)):
            for number in range(3):
                path = tmp_path / split / label / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("L", (40, 30), level).save(path)
    return load(tmp_path, (28, 28, 1), FIT, data_dir=tmp_path / "unused")


def test_files_that_get_the_labels_of_their_images_are_counted(dataset: Dataset) -> None:
    probabilities = brightness(dataset.test.images.numpy())
    assert file_check.check_files(brightness, dataset, probabilities, FIT) == 6


def test_a_data_set_without_files_is_not_checked(dataset: Dataset) -> None:
    without = Dataset(dataset.name, dataset.train, dataset.test, dataset.label_names)
    assert file_check.check_files(brightness, without, brightness(dataset.test.images.numpy()), FIT) == 0


def test_of_many_files_an_even_sample_is_checked(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_check, "MAX_FILES", 3)
    seen: list[float] = []

    def run(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        seen.append(float(images.mean()))
        return brightness(images)

    assert file_check.check_files(run, dataset, brightness(dataset.test.images.numpy()), FIT) == 3
    assert seen == [30, 30, 220], "from the first to the last file"


def test_another_label_is_refused_with_the_first_file_and_both_labels(dataset: Dataset) -> None:
    probabilities = brightness(dataset.test.images.numpy())
    probabilities[[2, 4]] = probabilities[[2, 4], ::-1]
    with pytest.raises(FileMismatch) as caught:
        file_check.check_files(brightness, dataset, probabilities, FIT)
    message = str(caught.value)
    assert message.startswith("2 of 6 test files get another label than their images did, first: ")
    assert f"{dataset.test_files[2]} was 'light' in the test and is 'dark' as the service reads it" in message
    assert message.endswith("; nothing was published")


@pytest.mark.parametrize("spoil", [Path.unlink, lambda path: path.write_bytes(b"<html>")], ids=["deleted", "replaced"])
def test_a_file_that_cannot_be_read_again_is_refused_by_name(dataset: Dataset, spoil: object) -> None:
    spoil(dataset.test_files[4])  # type: ignore[operator] # a function of a path
    with pytest.raises(FileMismatch, match=f"{dataset.test_files[4]} was used for testing, and now cannot be"):
        file_check.check_files(brightness, dataset, brightness(dataset.test.images.numpy()), FIT)
