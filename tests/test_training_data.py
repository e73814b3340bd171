"""What training learns from is what it says it is."""

import gzip
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.support import ROOT, SHARED
from training import data
from training.errors import DataError

MNIST = next((p for p in (ROOT / "data" / "MNIST" / "raw", SHARED / "data" / "mnist") if p.is_dir()), None)
full = pytest.mark.skipif(MNIST is None, reason="the full MNIST is neither in data/ nor in ../shared/data")


@pytest.fixture
def mnist_dir(tmp_path: Path) -> Path:
    """A --data-dir in which the four files stand in torchvision's layout, two of them gzipped."""
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    assert MNIST is not None
    for index, name in enumerate(data.MNIST_FILES):
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
    sample = data.load("mnist-sample", Path("unused"))
    assert sample.train.images.shape == (5000, 28, 28, 1) and sample.train.images.dtype == torch.uint8
    assert sample.test.images.shape == (1000, 28, 28, 1) and sample.test.labels.dtype == torch.int64
    assert sample.train.labels.bincount().tolist() == [500] * 10
    assert sample.test.labels.bincount().tolist() == [100] * 10
    assert data.SAMPLE_FILE.stat().st_size <= 1.5e6


@full
@pytest.mark.full
def test_the_sample_is_the_first_images_of_each_digit_in_mnist(mnist_dir: Path) -> None:
    mnist, sample = data.load("mnist", mnist_dir), data.load("mnist-sample", mnist_dir)
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
    mnist = data.load("mnist", mnist_dir)
    assert (len(mnist.train), len(mnist.test)) == (60_000, 10_000)
    assert mnist.train.labels[:5].tolist() == [5, 0, 4, 1, 9]


def test_missing_files_are_named_with_the_folder_and_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torchvision.datasets.MNIST.download", no_network)
    with pytest.raises(DataError) as caught:
        data.load("mnist", tmp_path)
    for part in (str(tmp_path / "MNIST" / "raw"), "mnist-sample", "no network", *data.MNIST_FILES):
        assert part in str(caught.value)


@full
@pytest.mark.full
@pytest.mark.parametrize("name", list(data.MNIST_FILES))
def test_a_truncated_file_is_refused_by_name(mnist_dir: Path, name: str) -> None:
    path = data._find(mnist_dir / "MNIST" / "raw", name)
    assert path is not None
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match=str(path)):
        data.load("mnist", mnist_dir)


@full
@pytest.mark.full
def test_a_file_in_another_files_place_is_refused_by_name(mnist_dir: Path) -> None:
    raw = mnist_dir / "MNIST" / "raw"
    (raw / "t10k-images-idx3-ubyte.gz").unlink()
    (raw / "t10k-images-idx3-ubyte").write_bytes((raw / "train-labels-idx1-ubyte").read_bytes())
    with pytest.raises(DataError, match="t10k-images-idx3-ubyte is not MNIST's"):
        data.load("mnist", mnist_dir)


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
    sample = data.load("mnist-sample", Path("unused"))
    labels = sample.test.labels.clone()
    labels[0] += 1
    changed = data.Dataset(sample.name, sample.train, data.Part(sample.test.images, labels), sample.label_names)
    assert sample.digest() == data.load("mnist-sample", Path("unused")).digest() != changed.digest()
