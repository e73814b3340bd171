"""What training learns from is what it says it is."""

import gzip
import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from tests.support.paths import ROOT, SHARED
from training import data, sources
from training.errors import DataError

MNIST = next((p for p in (ROOT / "data" / "MNIST" / "raw", SHARED / "data" / "mnist") if p.is_dir()), None)
full = pytest.mark.skipif(MNIST is None, reason="the full MNIST is neither in data/ nor in ../shared/data")


@pytest.fixture
def mnist_dir(tmp_path: Path) -> Path:
    """A --data-dir in which the four files stand in torchvision's layout, two of them gzipped."""
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    if MNIST is None:
        pytest.skip("the full MNIST is neither in data/ nor in ../shared/data")
    for index, name in enumerate(sources.MNIST_FILES):
        plain = MNIST / name
        content = plain.read_bytes() if plain.exists() else gzip.decompress((MNIST / f"{name}.gz").read_bytes())
        if index % 2:
            (raw / name).write_bytes(content)
        else:
            (raw / f"{name}.gz").write_bytes(gzip.compress(content, 1))
    return tmp_path


def no_network(*_: object, **__: object) -> None:
    raise OSError("no network")


def test_the_sample_is_balanced_and_small() -> None:
    sample = sources.load("mnist-sample", Path("unused"))
    assert sample.train.images.shape == (5000, 28, 28, 1) and sample.train.images.dtype == torch.uint8
    assert sample.test.images.shape == (1000, 28, 28, 1) and sample.test.labels.dtype == torch.int64
    assert sample.train.labels.bincount().tolist() == [500] * 10
    assert sample.test.labels.bincount().tolist() == [100] * 10
    assert sources.SAMPLE_FILE.stat().st_size <= 1.5e6


@full
@pytest.mark.full
def test_the_sample_is_the_first_images_of_each_digit_in_mnist(mnist_dir: Path) -> None:
    mnist, sample = sources.load("mnist", mnist_dir), sources.load("mnist-sample", mnist_dir)
    for whole, part, count in ((mnist.train, sample.train, 500), (mnist.test, sample.test, 100)):
        first = np.sort(np.concatenate([np.flatnonzero(whole.labels == digit)[:count] for digit in range(10)]))
        assert torch.equal(whole.images[first], part.images)
        assert torch.equal(whole.labels[first], part.labels)


@full
@pytest.mark.full
def test_full_mnist_is_read_plain_or_gzipped_without_a_network(
    mnist_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torchvision.datasets.MNIST.download", no_network)
    mnist = sources.load("mnist", mnist_dir)
    assert (len(mnist.train), len(mnist.test)) == (60_000, 10_000)
    assert mnist.train.labels[:5].tolist() == [5, 0, 4, 1, 9]


def test_missing_files_are_named_with_the_folder_and_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torchvision.datasets.MNIST.download", no_network)
    with pytest.raises(DataError) as caught:
        sources.load("mnist", tmp_path)
    for part in (str(tmp_path / "MNIST" / "raw"), "mnist-sample", "no network", *sources.MNIST_FILES):
        assert part in str(caught.value)


@full
@pytest.mark.full
@pytest.mark.parametrize("name", list(sources.MNIST_FILES))
def test_a_truncated_file_is_refused_by_name(mnist_dir: Path, name: str) -> None:
    path = sources._find(mnist_dir / "MNIST" / "raw", name)
    assert path is not None
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match=str(path)):
        sources.load("mnist", mnist_dir)


@full
@pytest.mark.full
def test_a_file_in_another_files_place_is_refused_by_name(mnist_dir: Path) -> None:
    raw = mnist_dir / "MNIST" / "raw"
    (raw / "t10k-images-idx3-ubyte.gz").unlink()
    (raw / "t10k-images-idx3-ubyte").write_bytes((raw / "train-labels-idx1-ubyte").read_bytes())
    with pytest.raises(DataError, match="t10k-images-idx3-ubyte is not MNIST's"):
        sources.load("mnist", mnist_dir)


def test_the_split_is_the_same_for_the_same_seed_and_loses_no_image() -> None:
    part = data.Part(torch.arange(100).reshape(100, 1, 1, 1), torch.arange(100))
    training, validation = data.split(part, validation=10, seed=3)
    again, _ = data.split(part, validation=10, seed=3)
    other, _ = data.split(part, validation=10, seed=4)
    assert (len(training), len(validation)) == (90, 10)
    assert sorted([*training.labels.tolist(), *validation.labels.tolist()]) == list(range(100))
    assert training.labels.tolist() == again.labels.tolist() != other.labels.tolist()
    assert torch.equal(training.images.flatten(), training.labels), "images and labels parted"


def test_the_digest_is_of_pixels_and_labels() -> None:
    sample = sources.load("mnist-sample", Path("unused"))
    labels = sample.test.labels.clone()
    labels[0] += 1
    changed = data.Dataset(sample.name, sample.train, data.Part(sample.test.images, labels), sample.label_names)
    assert sample.digest() == sources.load("mnist-sample", Path("unused")).digest() != changed.digest()


# --- the others ---


FASHION = next(
    (p for p in (ROOT / "data/FashionMNIST/raw", Path("/usr/share/datasets/fashion-mnist")) if p.is_dir()), None
)


@pytest.mark.full
@pytest.mark.skipif(FASHION is None, reason="Fashion-MNIST is neither in data/ nor installed from Debian")
def test_fashion_mnist_is_read_and_each_is_refused_in_the_others_place(mnist_dir: Path) -> None:
    assert FASHION is not None
    raw = mnist_dir / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for path in FASHION.glob("*ubyte*"):
        (raw / path.name).write_bytes(path.read_bytes())
    fashion = sources.load("fashion-mnist", mnist_dir)
    assert (len(fashion.train), len(fashion.test), fashion.image) == (60_000, 10_000, (28, 28, 1))
    assert fashion.train.labels.bincount().tolist() == [6000] * 10
    assert [fashion.label_names[i] for i in fashion.train.labels[:3]] == ["Ankle boot", "T-shirt/top", "T-shirt/top"]
    for path in raw.glob("train-images*"):
        path.unlink()
    digits = sources._find(mnist_dir / "MNIST" / "raw", "train-images-idx3-ubyte")
    assert digits is not None
    (raw / digits.name).write_bytes(digits.read_bytes())
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte.* is not FashionMNIST's"):
        sources.load("fashion-mnist", mnist_dir)


def small_cifar(folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[np.ndarray, np.ndarray]:
    """CIFAR-10's binary layout with 20 images a file, whose digests are made the known ones; images and labels."""
    random = np.random.default_rng(0)
    place = folder / "cifar-10-batches-bin"
    place.mkdir(parents=True)
    images = random.integers(0, 256, (120, 32, 32, 3), np.uint8)
    labels = random.integers(0, 10, 120, np.uint8)
    digests = {}
    for number, name in enumerate(sources.CIFAR_FILES):
        rows = slice(20 * number, 20 * number + 20)
        records = np.concatenate([labels[rows, None], images[rows].transpose(0, 3, 1, 2).reshape(20, 3072)], axis=1)
        (place / name).write_bytes(records.tobytes())
        digests[name] = hashlib.md5(records.tobytes()).hexdigest()  # noqa: S324 # as the sources publish it
    monkeypatch.setattr(sources, "CIFAR_FILES", digests)
    return images, labels


def test_cifar_is_read_from_its_binary_layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels = small_cifar(tmp_path, monkeypatch)
    cifar = sources.load("cifar10", tmp_path)
    assert torch.equal(cifar.train.images, torch.from_numpy(images[:100])) and cifar.image == (32, 32, 3)
    assert cifar.test.labels.tolist() == labels[100:].tolist()
    assert cifar.label_names[0] == "airplane" and len(cifar.label_names) == 10


@pytest.mark.parametrize("name", list(sources.CIFAR_FILES))
def test_a_changed_cifar_file_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    small_cifar(tmp_path, monkeypatch)
    path = tmp_path / "cifar-10-batches-bin" / name
    content = bytearray(path.read_bytes())
    content[5000] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"{path} is not CIFAR-10's {name}"):
        sources.load("cifar10", tmp_path)


def test_cifar_is_read_as_torchvision_keeps_it_if_its_digests_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = torchvision.datasets.CIFAR10
    place = tmp_path / "cifar-10-batches-py"
    place.mkdir()
    pixels = np.arange(2 * 3072, dtype=np.int64).reshape(2, 3072).astype(np.uint8)

    def save(name: str, content: object) -> tuple[str, str]:
        (place / name).write_bytes(pickle.dumps(content))
        return name, hashlib.md5((place / name).read_bytes()).hexdigest()  # noqa: S324

    batch = {"data": pixels, "labels": [3, 7]}
    monkeypatch.setattr(kept, "train_list", [save("data_batch_1", batch)])
    monkeypatch.setattr(kept, "test_list", [save("test_batch", batch)])
    name, md5 = save("batches.meta", {"label_names": list(sources.THINGS)})
    monkeypatch.setattr(kept, "meta", {"filename": name, "key": "label_names", "md5": md5})
    cifar = sources.load("cifar10", tmp_path)
    expected = torch.from_numpy(pixels.reshape(2, 3, 32, 32).transpose(0, 2, 3, 1).copy())
    assert torch.equal(cifar.train.images, expected) and cifar.test.labels.tolist() == [3, 7]
    (place / "test_batch").write_bytes(pickle.dumps({"data": pixels, "labels": [3, 8]}))
    with pytest.raises(DataError, match="cifar-10-batches-py is not CIFAR-10, or not whole"):
        sources.load("cifar10", tmp_path)


def test_a_missing_cifar_is_named_with_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torchvision.datasets.CIFAR10.download", no_network)
    with pytest.raises(DataError, match=r"CIFAR10 is not complete in .*cifar-10-batches-bin .*data_batch_1\.bin"):
        sources.load("cifar10", tmp_path)


# --- a folder ---


def paint(path: Path, colour: tuple[int, int, int], size: tuple[int, int] = (40, 60)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


def test_a_folder_of_images_by_class_is_a_data_set(tmp_path: Path) -> None:
    for number in range(12):
        paint(tmp_path / "reds" / f"{number}.png", (255, 0, 0))
        paint(tmp_path / "blues" / "deeper" / f"{number}.JPG", (0, 0, 255))
    (tmp_path / "reds" / "notes.txt").write_text("no image")
    (tmp_path / ".cache").mkdir()
    found = sources.load(f"folder:{tmp_path}", Path("unused"), (32, 32, 3))
    assert found.label_names == ("blues", "reds") and found.name == f"folder:{tmp_path.name}"
    assert found.train.labels.bincount().tolist() == [10, 10] and found.test.labels.bincount().tolist() == [2, 2]
    red = found.train.images[found.train.labels == 1]
    assert red.shape == (10, 32, 32, 3) and red.unique(dim=0).shape[0] == 1 and red[0, 0, 0].tolist() == [255, 0, 0]
    grey = sources.load(f"folder:{tmp_path}", Path("unused"), (28, 28, 1))
    assert grey.image == (28, 28, 1)


def test_a_folder_that_is_divided_stays_so(tmp_path: Path) -> None:
    for part, count in (("train", 3), ("test", 1)):
        for label in ("a", "b"):
            for number in range(count):
                paint(tmp_path / part / label / f"{number}.png", (number, 0, 0))
    found = sources.load(f"folder:{tmp_path}", Path("unused"))
    assert found.train.labels.tolist() == [0, 0, 0, 1, 1, 1] and found.test.labels.tolist() == [0, 1]
    paint(tmp_path / "test" / "c" / "0.png", (0, 0, 0))
    with pytest.raises(DataError, match=r"has classes that .*train has not: c"):
        sources.load(f"folder:{tmp_path}", Path("unused"))


def test_a_folder_that_is_none_of_images_is_refused_with_what_is_missing(tmp_path: Path) -> None:
    def says(text: str) -> None:
        with pytest.raises(DataError, match=text):
            sources.load(f"folder:{tmp_path / 'mine'}", Path("unused"))

    says("mine is not a folder of images by class")
    for number in range(3):
        paint(tmp_path / "mine" / "a" / f"{number}.png", (0, 0, 0))
    says("has 1 folders of images; at least 2 are needed")
    paint(tmp_path / "mine" / "b" / "0.png", (0, 0, 0))
    says(r"b has 1 images \(.*\); at least 2 are needed")
    bad = tmp_path / "mine" / "b" / "1.png"
    bad.write_bytes((tmp_path / "mine" / "b" / "0.png").read_bytes()[:60])
    says(f"{bad} is no image that can be read")
