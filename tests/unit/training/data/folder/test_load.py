"""A folder of pictures becomes a data set: images, labels, splits, and what is left out."""

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from service.pictures.fit import DRAWING, NONE, RESIZE, Fit
from training.data import datasets
from training.data.dataset import Dataset, training_and_validation
from training.data.folder import cache, reading
from training.errors import DataError


def paint(path: Path, colour: tuple[int, int, int], size: tuple[int, int] = (40, 60)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


def test_a_folder_of_images_by_class_is_loaded_with_one_in_six_as_test_images(tmp_path: Path) -> None:
    for number in range(12):
        paint(tmp_path / "reds" / f"{number}.png", (255, 0, 0))
        paint(tmp_path / "blues" / "deeper" / f"{number}.JPG", (0, 0, 255))
    (tmp_path / "reds" / "notes.txt").write_text("not an image")
    (tmp_path / ".cache").mkdir()
    found = datasets.load(f"folder:{tmp_path}", Path("unused"), (32, 32, 3))
    assert found.label_names == ("blues", "reds") and found.name == f"folder:{tmp_path.name}"
    assert found.train.labels.bincount().tolist() == [10, 10] and found.test.labels.bincount().tolist() == [2, 2]
    red = found.train.images[found.train.labels == 1]
    assert red.shape == (10, 32, 32, 3) and red.unique(dim=0).shape[0] == 1 and red[0, 0, 0].tolist() == [255, 0, 0]
    grey = datasets.load(f"folder:{tmp_path}", Path("unused"), (28, 28, 1))
    assert grey.image_shape == (28, 28, 1)


def noise(path: Path, seed: int) -> None:
    """A picture like no other."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (20, 30, 3), np.uint8)).save(path)


def fill(root: Path, splits: dict[str, int]) -> None:
    """This number of different pictures in each split, for the classes a and b."""
    seed = 0
    for split, count in splits.items():
        for label in ("a", "b"):
            for number in range(count):
                noise(root / split / label / f"{number}.png", seed := seed + 1)


def load(root: Path, **options: Any) -> Dataset:
    return datasets.load(f"folder:{root}", root.parent / "data", **options)


def test_the_users_own_splits_are_kept(tmp_path: Path) -> None:
    fill(tmp_path, {"train": 3, "test": 1})
    found = load(tmp_path)
    assert found.train.labels.tolist() == [0, 0, 0, 1, 1, 1] and found.test.labels.tolist() == [0, 1]
    assert found.validation is None
    fill(tmp_path, {"train": 3, "test": 1, "val": 2})
    found = load(tmp_path)
    assert found.validation is not None and found.validation.labels.tolist() == [0, 0, 1, 1]
    assert (len(found.train), len(found.test)) == (6, 2)


def test_train_and_val_are_training_and_test_split(tmp_path: Path) -> None:
    fill(tmp_path, {"train": 3, "val": 2})
    lines: list[str] = []
    found = load(tmp_path, say=lines.append)
    assert found.label_names == ("a", "b") and (len(found.train), len(found.test)) == (6, 4)
    assert [file.parts[-3] for file in found.test_files] == ["val"] * 4
    assert any("val is the test split, as there is no other" in line for line in lines)


@pytest.mark.parametrize(
    ("split", "least"), [(".", r"b has 1 images \(.*\); at least 2"), ("train", "b has 0 images"), ("test", "b has 0")]
)
def test_a_class_with_too_few_pictures_is_refused_by_its_folder(tmp_path: Path, split: str, least: str) -> None:
    fill(tmp_path, {split: 2} if split == "." else {"train": 2, "test": 2})
    for file in sorted((tmp_path / split / "b").iterdir())[split == "." :]:
        file.unlink()
    with pytest.raises(DataError, match=f"{tmp_path / split / least}"):
        load(tmp_path)


def test_a_class_that_the_test_split_lacks_is_refused_by_name(tmp_path: Path) -> None:
    fill(tmp_path, {"train": 2, "test": 2})
    shutil.rmtree(tmp_path / "test" / "b")
    with pytest.raises(DataError, match="test split of b has 0 images"):
        load(tmp_path)


def test_files_that_cannot_be_used_are_left_out_if_asked_for_and_counted(tmp_path: Path) -> None:
    fill(tmp_path, {".": 12})
    (tmp_path / "a" / "3.png").write_bytes(b"<html>404</html>")
    lines: list[str] = []
    found = load(tmp_path, skip_unreadable=True, say=lines.append)
    assert len(found.train) + len(found.test) == 23 and found.excluded == {"unreadable": 1}
    assert any(line.startswith("left out: 1 of 24 files") and "a/3.png" in line for line in lines)
    for file in (tmp_path / "b").iterdir():
        file.write_bytes(b"")
    with pytest.raises(DataError, match="b has 0 images"):
        load(tmp_path, skip_unreadable=True)


def test_copies_between_the_users_splits_are_left_out_of_training_and_counted(tmp_path: Path) -> None:
    fill(tmp_path, {"train": 5, "test": 2})
    shutil.copy(tmp_path / "test" / "a" / "0.png", tmp_path / "train" / "a" / "copy.png")
    lines: list[str] = []
    found = load(tmp_path, say=lines.append)
    assert len(found.train) == 10 and found.excluded == {"copies": 1}
    assert any("train/a/copy.png = test/a/0.png" in line for line in lines)


def test_what_is_passed_over_and_the_memory_are_said(tmp_path: Path) -> None:
    fill(tmp_path, {".": 10})
    noise(tmp_path / "a" / ".ipynb_checkpoints" / "0-checkpoint.png", 99)
    noise(tmp_path / "__MACOSX" / "a" / "._0.png", 98)
    (tmp_path / "a" / "notes.txt").touch()
    lines: list[str] = []
    found = load(tmp_path, say=lines.append)
    assert found.label_names == ("a", "b") and len(found.train) + len(found.test) == 20
    assert lines[0] == "passed over: 2 hidden or of the system, 1 .txt"
    assert lines[1].startswith("20 pictures as images of 28 × 28 × 1 take up to 0.0 MiB of memory")
    assert lines[2].startswith("read 20 pictures in ") and len(lines) == 3


def test_an_added_picture_moves_no_other_between_training_validation_and_test(tmp_path: Path) -> None:
    fill(tmp_path, {".": 42})

    def sides() -> tuple[list[set[bytes]], int]:
        found = load(tmp_path, image_shape=(8, 8, 3))
        splits = (*training_and_validation(found, fraction=0.2, seed=0), found.test)
        return [{image.numpy().tobytes() for image in split.images} for split in splits], sum(map(len, splits))

    before, count = sides()
    assert count == 84 and all(len(side) > 5 for side in before)
    noise(tmp_path / "a" / "00 added.png", 1000)
    (tmp_path / "b" / "3.png").rename(tmp_path / "b" / "zzz.png")
    after, count = sides()
    assert count == 85 and all(first <= second for first, second in zip(before, after, strict=True))


def test_a_folder_without_classes_or_images_is_refused_with_the_reason(tmp_path: Path) -> None:
    def is_refused_with(text: str) -> None:
        with pytest.raises(DataError, match=text):
            datasets.load(f"folder:{tmp_path / 'mine'}", Path("unused"))

    is_refused_with("mine is not a folder of images by class")
    for number in range(3):
        paint(tmp_path / "mine" / "a" / f"{number}.png", (0, 0, 0))
    is_refused_with("has 1 folders of images: a; at least 2 are needed")
    paint(tmp_path / "mine" / "b" / "0.png", (0, 0, 0))
    is_refused_with(r"b has 1 images \(.*\); at least 2 are needed")


def test_hidden_files_are_no_pictures_of_a_class(tmp_path: Path) -> None:
    for label in ("blue", "red"):
        for number in range(2):
            paint(tmp_path / label / f"{number}.png", (0, 0, 200))
        (tmp_path / label / "._0.png").write_bytes(b"\0\5\x16\7")  # macOS puts these beside copies on other disks
        paint(tmp_path / label / ".thumbnails" / "0.png", (0, 0, 200))
    loaded = datasets.load(f"folder:{tmp_path}", tmp_path, (8, 8, 3))
    assert len(loaded.train) + len(loaded.test) == 4


def test_files_that_are_no_pictures_are_all_named_at_once_up_to_ten(tmp_path: Path) -> None:
    """A saved web page, a download that was cut off, and an empty file."""
    for label in ("a", "b"):
        for number in range(12):
            paint(tmp_path / label / f"{number:02}.png", (0, 0, 0))
    whole = (tmp_path / "a" / "00.png").read_bytes()
    for file, content in (("a/03.png", b"<html>404</html>"), ("a/07.png", whole[:-30]), ("b/01.png", b"")):
        (tmp_path / file).write_bytes(content)

    def message() -> str:
        with pytest.raises(DataError) as caught:
            datasets.load(f"folder:{tmp_path}", Path("unused"))
        return str(caught.value)

    assert message().startswith(f"3 of 24 files below {tmp_path} cannot be used with --fit resize: a/03.png: ")
    assert "; a/07.png: " in message() and "; b/01.png: " in message() and "more" not in message()
    for number in range(12):
        (tmp_path / "a" / f"{number:02}.png").write_bytes(b"")
    assert message().startswith("13 of 24 files") and "; and 3 more; mend or delete them" in message()
    assert "a/09.png" in message() and "a/10.png" not in message()


@pytest.mark.parametrize(
    ("fit", "darkest", "lightest"),
    [(RESIZE, 100, 255), (DRAWING, 0, 155), (NONE, 100, 255)],
    ids=[RESIZE, DRAWING, NONE],
)
def test_the_fit_decides_how_files_become_images(tmp_path: Path, fit: str, darkest: int, lightest: int) -> None:
    """A grey stroke on a white page, of the network's size, is inverted as a drawing only."""
    for label in ("a", "b"):
        for number in range(2):
            page = Image.new("L", (28, 28), 255)
            page.paste(100, (10, 4, 14, 24))
            (tmp_path / label).mkdir(exist_ok=True)
            page.save(tmp_path / label / f"{number}.png")
    images = datasets.load(f"folder:{tmp_path}", Path("unused"), fit=Fit(fit)).train.images
    assert (int(images.min()), int(images.max())) == (darkest, lightest)


def test_without_a_fit_a_file_must_have_the_networks_size(tmp_path: Path) -> None:
    for label in ("a", "b"):
        for number in range(2):
            paint(tmp_path / label / f"{number}.png", (0, 0, 0), size=(32, 32) if number else (32, 33))
    with pytest.raises(
        DataError, match=r"2 of 4 files .* --fit none: a/0.png: expected 32 × 32 pixels, RGB, got 32 × 33"
    ):
        datasets.load(f"folder:{tmp_path}", Path("unused"), (32, 32, 3), Fit(NONE))


@pytest.mark.parametrize("splits", [False, True])
def test_a_folder_knows_the_file_of_each_test_image(tmp_path: Path, splits: bool) -> None:
    for split in ("train", "test") if splits else (".",):
        for label, red in (("a", 0), ("b", 100)):
            for number in range(14):
                paint(tmp_path / split / label / f"{number}.png", (red + number + 20 * (split == "test"), 0, 0))
    found = datasets.load(f"folder:{tmp_path}", Path("unused"), (32, 32, 3))
    assert len(found.test_files) == len(found.test) == (28 if splits else 5)
    of_files = [int(np.asarray(Image.open(file))[0, 0, 0]) for file in found.test_files]
    assert of_files == found.test.images[:, 0, 0, 0].tolist()
    assert not set(of_files) & set(found.train.images[:, 0, 0, 0].tolist())


@pytest.mark.parametrize(
    "name",
    [b"b\nc", b"b\rc", b"b\r", b"\n", b" ", "b\u2028c".encode(), b"b\x0bc", "\ufeffb".encode(), b"b\xff"],
)
@pytest.mark.parametrize("splits", [False, True])
def test_a_class_folder_whose_name_cannot_be_a_line_of_labels_is_refused_by_name(
    tmp_path: Path, name: bytes, splits: bool
) -> None:
    bad = os.fsdecode(name)
    for split in ("train", "test") if splits else (".",):
        for label in ("a", bad, "d"):
            for number in range(2):
                paint(tmp_path / split / label / f"{number}.png", (0, 0, 0))
    with pytest.raises(DataError) as caught:
        datasets.load(f"folder:{tmp_path}", Path("unused"))
    assert f"name {bad!r} cannot be one line of labels.txt" in str(caught.value)
    str(caught.value).encode()  # an error that cannot be printed would hide the name


def test_class_names_of_any_language_with_spaces_and_signs_are_labels(tmp_path: Path) -> None:
    names = sorted(["große Katze", "犬", "naïve, (b)", "tab\tname", " x", "ا"])
    for name in names:
        for number in range(2):
            paint(tmp_path / name / f"{number}.png", (0, 0, 0))
    assert list(datasets.load(f"folder:{tmp_path}", Path("unused")).label_names) == names


def test_the_data_folder_itself_may_hold_the_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cache inside it is no class."""
    monkeypatch.setattr(reading, "WORTH_A_CACHE_SECONDS", 0)
    fill(tmp_path, {".": 3})
    for _ in range(2):
        assert datasets.load(f"folder:{tmp_path}", tmp_path).label_names == ("a", "b")
    assert (tmp_path / cache.FOLDER).is_dir()
