"""Data sets that torchvision downloads or reads; its import takes seconds."""

import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision

from training.data import datasets
from training.errors import DataError


def no_network(*_: object, **__: object) -> None:
    raise OSError("no network")


def test_the_error_for_missing_files_names_them_the_folder_and_the_bundled_sample(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torchvision.datasets.MNIST.download", no_network)
    with pytest.raises(DataError) as caught:
        datasets.load("mnist", tmp_path)
    for text in (str(tmp_path / "MNIST" / "raw"), "mnist-sample", "no network", *datasets.MNIST_FILES):
        assert text in str(caught.value)


def test_the_error_for_missing_cifar_files_names_them_and_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torchvision.datasets.CIFAR10.download", no_network)
    with pytest.raises(DataError, match=r"CIFAR10 is incomplete in .*cifar-10-batches-bin .*data_batch_1\.bin"):
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
