"""Data sets are verified when they are loaded, and split without losing an image."""

import gzip
import hashlib
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

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
    monkeypatch.setattr(datasets, "_download", no_network)
    mnist = datasets.load("mnist", mnist_dir)
    assert (len(mnist.train), len(mnist.test)) == (60_000, 10_000)
    assert mnist.train.labels[:5].tolist() == [5, 0, 4, 1, 9]


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


def labelled(count: int, *, start: int = 0, class_id: int | None = None) -> dataset.Split:
    """Images of one pixel each, of this and the next values, in 2 classes or one."""
    values = torch.arange(start, start + count)
    labels = values % 2 if class_id is None else torch.full((count,), class_id)
    pixels = torch.stack([values // 256, values % 256], dim=1).to(torch.uint8)
    return dataset.Split(pixels.reshape(count, 1, 2, 1), labels)


def data_set(train: dataset.Split, **options: Any) -> dataset.Dataset:
    return dataset.Dataset("mine", train, labelled(4), ("a", "b"), **options)


def test_a_validation_split_of_the_users_own_is_taken_as_it_is() -> None:
    train, own = labelled(100), labelled(7, start=500)
    training, validation = dataset.training_and_validation(data_set(train, validation=own), fraction=0.1, seed=0)
    assert training is train and validation is own
    assert data_set(train).digest() != data_set(train, validation=own).digest()


def test_named_data_sets_are_divided_by_the_seed_alone() -> None:
    train = labelled(100)
    found = dataset.training_and_validation(data_set(train), fraction=0.1, seed=3)
    expected = dataset.split_validation(train, size=10, seed=3)
    assert [split.digest() for split in found] == [split.digest() for split in expected]


def test_a_validation_split_by_content_follows_the_seed_and_an_added_image_moves_no_other() -> None:
    def validation(count: int, seed: int) -> set[int]:
        found = data_set(labelled(count), is_split_by_content=True)
        training, validation = dataset.training_and_validation(found, fraction=0.1, seed=seed)
        assert len(training) + len(validation) == count
        return {int(image[0, 0, 0]) * 256 + int(image[0, 1, 0]) for image in validation.images}

    assert 60 < len(validation(1000, 0)) < 140
    assert validation(1000, 0) == {value for value in validation(1200, 0) if value < 1000}
    assert validation(1000, 0) != validation(1000, 1)


def test_a_class_keeps_an_image_to_train_on() -> None:
    for start in range(100):
        rare = labelled(1, start=1000 + start, class_id=1)
        many = labelled(20, class_id=0)
        train = dataset.Split(torch.cat([many.images, rare.images]), torch.cat([many.labels, rare.labels]))
        found = data_set(train, is_split_by_content=True)
        training, _ = dataset.training_and_validation(found, fraction=0.5, seed=0)
        assert 1 in training.labels.tolist()
    empty = dataset.training_and_validation(data_set(labelled(20), is_split_by_content=True), fraction=0.0, seed=0)
    assert [len(split) for split in empty] == [20, 0]


def test_the_mean_and_deviation_of_pixels_are_those_of_their_floats() -> None:
    train = datasets.load("mnist-sample", Path("unused")).train
    std, mean = torch.std_mean(train.images.double() / 255)
    assert train.mean_and_std() == pytest.approx((mean.item(), std.item()), rel=1e-12)


def test_the_split_digest_changes_with_an_image_that_moves_and_with_the_order() -> None:
    train, test = labelled(10), labelled(4, start=50)
    digests = {
        dataset.split_digest(train[:8], train[8:], test),
        dataset.split_digest(train[:7], train[7:], test),
        dataset.split_digest(train[:8], test, train[8:]),
        dataset.split_digest(train[torch.arange(7, -1, -1)], train[8:], test),
    }
    assert len(digests) == 4 and all(len(digest) == 64 for digest in digests)
    assert dataset.split_digest(train[:8], train[8:], test) in digests


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


def test_digits_are_recorded_as_drawings_and_other_data_as_resized() -> None:
    recorded = {name: datasets.own_fit(name).method for name in (*datasets.LOADERS, "folder:mnist")}
    assert recorded == {
        "mnist": "drawing", "mnist-sample": "drawing", "fashion-mnist": "resize", "cifar10": "resize",
        "folder:mnist": "resize",
    }  # fmt: skip
