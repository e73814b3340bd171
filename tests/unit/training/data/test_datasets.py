"""Data sets are verified when they are loaded, and split without losing an image."""

import gzip
import hashlib
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from service.pictures.fit import DRAWING, NONE, RESIZE, Fit
from tests.support.data import MNIST, full
from tests.support.paths import ROOT
from training.data import dataset, datasets
from training.errors import DataError


@pytest.fixture(scope="module")
def mnist_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with MNIST's four files in torchvision's layout, two of them gzipped."""
    folder = tmp_path_factory.mktemp("data")
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True)
    if MNIST is None:
        pytest.skip("the full MNIST is neither in data/ nor in ../shared/data")
    for index, name in enumerate(datasets.MNIST_FILES):
        plain, zipped = MNIST / name, MNIST / f"{name}.gz"
        if index % 2:
            (raw / name).write_bytes(plain.read_bytes() if plain.exists() else gzip.decompress(zipped.read_bytes()))
        else:
            content = zipped.read_bytes() if zipped.exists() else gzip.compress(plain.read_bytes(), 1)
            (raw / f"{name}.gz").write_bytes(content)
    return folder


@pytest.fixture
def mnist_dir(mnist_files: Path, tmp_path: Path) -> Path:
    """A copy of that folder, which a test may change."""
    shutil.copytree(mnist_files, tmp_path, dirs_exist_ok=True)
    return tmp_path


def no_network(*_: object, **__: object) -> None:
    raise OSError("no network")


def test_the_bundled_sample_is_balanced_and_at_most_1_5_megabytes() -> None:
    sample = datasets.load("mnist-sample", Path("unused"))
    assert sample.train.images.shape == (5000, 28, 28, 1) and sample.train.images.dtype == torch.uint8
    assert sample.test.images.shape == (1000, 28, 28, 1) and sample.test.labels.dtype == torch.int64
    assert sample.train.labels.bincount().tolist() == [500] * 10
    assert sample.test.labels.bincount().tolist() == [100] * 10
    assert datasets.SAMPLE_FILE.stat().st_size <= 1.5e6


@full
@pytest.mark.full
def test_the_bundled_sample_is_the_first_images_of_each_digit_in_mnist(mnist_dir: Path) -> None:
    mnist, sample = datasets.load("mnist", mnist_dir), datasets.load("mnist-sample", mnist_dir)
    for whole, subset, count in ((mnist.train, sample.train, 500), (mnist.test, sample.test, 100)):
        first = np.sort(np.concatenate([np.flatnonzero(whole.labels == digit)[:count] for digit in range(10)]))
        assert torch.equal(whole.images[first], subset.images)
        assert torch.equal(whole.labels[first], subset.labels)


@full
@pytest.mark.full
def test_mnist_is_loaded_from_plain_and_gzipped_files_without_a_network(
    mnist_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torchvision.datasets.MNIST.download", no_network)
    mnist = datasets.load("mnist", mnist_dir)
    assert (len(mnist.train), len(mnist.test)) == (60_000, 10_000)
    assert mnist.train.labels[:5].tolist() == [5, 0, 4, 1, 9]


def test_the_error_for_missing_files_names_them_the_folder_and_the_bundled_sample(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torchvision.datasets.MNIST.download", no_network)
    with pytest.raises(DataError) as caught:
        datasets.load("mnist", tmp_path)
    for text in (str(tmp_path / "MNIST" / "raw"), "mnist-sample", "no network", *datasets.MNIST_FILES):
        assert text in str(caught.value)


@full
@pytest.mark.full
@pytest.mark.parametrize("name", list(datasets.MNIST_FILES))
def test_a_truncated_mnist_file_is_refused_by_name(mnist_dir: Path, name: str) -> None:
    path = datasets._find(mnist_dir / "MNIST" / "raw", name)
    assert path is not None
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match=str(path)):
        datasets.load("mnist", mnist_dir)


@full
@pytest.mark.full
def test_a_file_under_another_files_name_is_refused_by_name(mnist_dir: Path) -> None:
    raw = mnist_dir / "MNIST" / "raw"
    (raw / "t10k-images-idx3-ubyte.gz").unlink()
    (raw / "t10k-images-idx3-ubyte").write_bytes((raw / "train-labels-idx1-ubyte").read_bytes())
    with pytest.raises(DataError, match="t10k-images-idx3-ubyte is not MNIST's"):
        datasets.load("mnist", mnist_dir)


def test_the_validation_split_follows_the_seed_and_loses_no_image() -> None:
    images = dataset.Split(torch.arange(100).reshape(100, 1, 1, 1), torch.arange(100))
    training, validation = dataset.split_validation(images, size=10, seed=3)
    again, _ = dataset.split_validation(images, size=10, seed=3)
    other, _ = dataset.split_validation(images, size=10, seed=4)
    assert (len(training), len(validation)) == (90, 10)
    assert sorted([*training.labels.tolist(), *validation.labels.tolist()]) == list(range(100))
    assert training.labels.tolist() == again.labels.tolist() != other.labels.tolist()
    assert torch.equal(training.images.flatten(), training.labels), "images lost their labels"


def test_the_digest_changes_with_a_label() -> None:
    sample = datasets.load("mnist-sample", Path("unused"))
    labels = sample.test.labels.clone()
    labels[0] += 1
    changed = dataset.Dataset(sample.name, sample.train, dataset.Split(sample.test.images, labels), sample.label_names)
    assert sample.digest() == datasets.load("mnist-sample", Path("unused")).digest() != changed.digest()


# --- Fashion-MNIST and CIFAR-10 ---


FASHION = next(
    (p for p in (ROOT / "data/FashionMNIST/raw", Path("/usr/share/datasets/fashion-mnist")) if p.is_dir()), None
)


@pytest.mark.full
@pytest.mark.skipif(FASHION is None, reason="Fashion-MNIST is neither in data/ nor installed from Debian")
def test_fashion_mnist_is_loaded_and_a_file_of_mnist_is_refused_in_its_place(mnist_dir: Path) -> None:
    assert FASHION is not None
    raw = mnist_dir / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for path in FASHION.glob("*ubyte*"):
        (raw / path.name).write_bytes(path.read_bytes())
    fashion = datasets.load("fashion-mnist", mnist_dir)
    assert (len(fashion.train), len(fashion.test), fashion.image_shape) == (60_000, 10_000, (28, 28, 1))
    assert fashion.train.labels.bincount().tolist() == [6000] * 10
    assert [fashion.label_names[i] for i in fashion.train.labels[:3]] == ["Ankle boot", "T-shirt/top", "T-shirt/top"]
    for path in raw.glob("train-images*"):
        path.unlink()
    digits = datasets._find(mnist_dir / "MNIST" / "raw", "train-images-idx3-ubyte")
    assert digits is not None
    (raw / digits.name).write_bytes(digits.read_bytes())
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte.* is not FashionMNIST's"):
        datasets.load("fashion-mnist", mnist_dir)


def small_cifar(folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[np.ndarray, np.ndarray]:
    """Write CIFAR-10's binary files with 20 images each and make their digests the known ones; images and labels."""
    random = np.random.default_rng(0)
    binary = folder / "cifar-10-batches-bin"
    binary.mkdir(parents=True)
    images = random.integers(0, 256, (120, 32, 32, 3), np.uint8)
    labels = random.integers(0, 10, 120, np.uint8)
    digests = {}
    for number, name in enumerate(datasets.CIFAR_FILES):
        rows = slice(20 * number, 20 * number + 20)
        records = np.concatenate([labels[rows, None], images[rows].transpose(0, 3, 1, 2).reshape(20, 3072)], axis=1)
        (binary / name).write_bytes(records.tobytes())
        digests[name] = hashlib.md5(records.tobytes()).hexdigest()  # noqa: S324 # the digest that CIFAR-10 publishes
    monkeypatch.setattr(datasets, "CIFAR_FILES", digests)
    return images, labels


def test_cifar_is_loaded_from_its_binary_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels = small_cifar(tmp_path, monkeypatch)
    cifar = datasets.load("cifar10", tmp_path)
    assert torch.equal(cifar.train.images, torch.from_numpy(images[:100])) and cifar.image_shape == (32, 32, 3)
    assert cifar.test.labels.tolist() == labels[100:].tolist()
    assert cifar.label_names[0] == "airplane" and len(cifar.label_names) == 10


@pytest.mark.parametrize("name", list(datasets.CIFAR_FILES))
def test_a_cifar_file_with_one_changed_bit_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    small_cifar(tmp_path, monkeypatch)
    path = tmp_path / "cifar-10-batches-bin" / name
    content = bytearray(path.read_bytes())
    content[5000] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"{path} is not CIFAR-10's {name}"):
        datasets.load("cifar10", tmp_path)


def test_cifar_is_loaded_from_torchvisions_files_only_if_their_digests_match(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = torchvision.datasets.CIFAR10
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    pixels = np.arange(2 * 3072, dtype=np.int64).reshape(2, 3072).astype(np.uint8)

    def save(name: str, content: object) -> tuple[str, str]:
        (folder / name).write_bytes(pickle.dumps(content))
        return name, hashlib.md5((folder / name).read_bytes()).hexdigest()  # noqa: S324

    batch = {"data": pixels, "labels": [3, 7]}
    monkeypatch.setattr(known, "train_list", [save("data_batch_1", batch)])
    monkeypatch.setattr(known, "test_list", [save("test_batch", batch)])
    name, md5 = save("batches.meta", {"label_names": list(datasets.CIFAR_LABELS)})
    monkeypatch.setattr(known, "meta", {"filename": name, "key": "label_names", "md5": md5})
    cifar = datasets.load("cifar10", tmp_path)
    expected = torch.from_numpy(pixels.reshape(2, 3, 32, 32).transpose(0, 2, 3, 1).copy())
    assert torch.equal(cifar.train.images, expected) and cifar.test.labels.tolist() == [3, 7]
    (folder / "test_batch").write_bytes(pickle.dumps({"data": pixels, "labels": [3, 8]}))
    with pytest.raises(DataError, match="cifar-10-batches-py is not a complete CIFAR-10"):
        datasets.load("cifar10", tmp_path)


def test_the_error_for_missing_cifar_files_names_them_and_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torchvision.datasets.CIFAR10.download", no_network)
    with pytest.raises(DataError, match=r"CIFAR10 is incomplete in .*cifar-10-batches-bin .*data_batch_1\.bin"):
        datasets.load("cifar10", tmp_path)


# --- a folder of images ---


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


def test_a_folder_with_train_and_test_keeps_these_splits(tmp_path: Path) -> None:
    for split, count in (("train", 3), ("test", 1)):
        for label in ("a", "b"):
            for number in range(count):
                paint(tmp_path / split / label / f"{number}.png", (number, 0, 0))
    found = datasets.load(f"folder:{tmp_path}", Path("unused"))
    assert found.train.labels.tolist() == [0, 0, 0, 1, 1, 1] and found.test.labels.tolist() == [0, 1]
    paint(tmp_path / "test" / "c" / "0.png", (0, 0, 0))
    with pytest.raises(DataError, match=r"has classes that .*train lacks: c"):
        datasets.load(f"folder:{tmp_path}", Path("unused"))


def test_a_folder_without_classes_or_images_is_refused_with_the_reason(tmp_path: Path) -> None:
    def is_refused_with(text: str) -> None:
        with pytest.raises(DataError, match=text):
            datasets.load(f"folder:{tmp_path / 'mine'}", Path("unused"))

    is_refused_with("mine is not a folder of images by class")
    for number in range(3):
        paint(tmp_path / "mine" / "a" / f"{number}.png", (0, 0, 0))
    is_refused_with("has 1 folders of images; at least 2 are needed")
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
    assert message().startswith("13 of 24 files") and message().endswith("; and 3 more")
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
                paint(tmp_path / split / label / f"{number}.png", (red + number, 0, 0))
    found = datasets.load(f"folder:{tmp_path}", Path("unused"), (32, 32, 3))
    assert len(found.test_files) == len(found.test) == (28 if splits else 4)
    of_files = [int(np.asarray(Image.open(file))[0, 0, 0]) for file in found.test_files]
    assert of_files == found.test.images[:, 0, 0, 0].tolist()
    assert not set(of_files) & set(found.train.images[:, 0, 0, 0].tolist()) or splits


def test_digits_are_recorded_as_drawings_and_other_data_as_resized() -> None:
    recorded = {name: datasets.own_fit(name).method for name in (*datasets.LOADERS, "folder:mnist")}
    assert recorded == {
        "mnist": "drawing", "mnist-sample": "drawing", "fashion-mnist": "resize", "cifar10": "resize",
        "folder:mnist": "resize",
    }  # fmt: skip


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
