"""`python -m training` as a user types it."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from service.models.loader import EngineOptions, load
from service.models.repository import scan
from tests.support.processes import run_command
from tests.test_training_data import MNIST, full
from training import finish, networks

QUICK = ("--dataset", "mnist-sample", "--epochs", "1", "--device", "cpu")


def test_a_manifest_says_what_was_made_from_what_and_how_well(published: Path) -> None:
    manifest = json.loads((published / "mnist-simplecnn" / "1" / "manifest.json").read_text())
    assert manifest["schema"] == 1
    assert manifest["model"] == manifest["network"]["name"] == "mnist-simplecnn"
    assert manifest["network"]["pool"] == "max"
    assert manifest["dataset"]["name"] == "mnist-sample"
    assert (manifest["dataset"]["training"], manifest["dataset"]["validation"]) == (4750, 250)
    assert manifest["dataset"]["test"] == 1000
    metrics = manifest["metrics"]
    assert 0.9 <= metrics["test_accuracy"] <= 1 and 0.9 <= metrics["validation_accuracy"] <= 1
    confusion = np.array(metrics["confusion"])
    assert confusion.shape == (10, 10) and confusion.sum(1).tolist() == [100] * 10
    assert abs(np.trace(confusion) / 1000 - metrics["test_accuracy"]) < 1e-6
    assert 0 < metrics["calibration_error"] < 0.2 and len(metrics["precision"]) == len(metrics["recall"]) == 10
    assert manifest["opset"] == 20 and manifest["run"].endswith("-mnist-simplecnn-seed0")
    assert manifest["recipe"]["seed"] == 0 and manifest["recipe"]["epochs"] == 4
    assert 0 <= manifest["parity"]["max_difference"] <= manifest["parity"]["tolerance"] == 1e-5
    assert manifest["golden"]["tolerance"] > 0
    assert {"python", "torch", "onnx", "onnxscript", "numpy"} <= manifest["versions"].keys()
    assert len(manifest["sha256"]) == len(manifest["dataset"]["sha256"]) == 64
    commit = manifest["commit"].removesuffix("-dirty")
    assert len(commit) == 40


def test_golden_samples_are_real_test_images_of_every_class(
    published: Path, test_images: tuple[np.ndarray, np.ndarray]
) -> None:
    images, labels = test_images
    with np.load(published / "mnist-simplecnn" / "1" / "golden.npz") as golden:
        samples, answers = golden["images"], golden["probabilities"]
    indices = [int((images == sample).all((1, 2, 3)).argmax()) for sample in samples]
    assert all((images[index] == sample).all() for index, sample in zip(indices, samples, strict=True))
    assert sorted(set(labels[indices].tolist())) == list(range(10))
    np.testing.assert_allclose(answers.sum(1), 1, atol=1e-5)


def test_among_them_is_the_least_certain_right_one_of_each_class() -> None:
    labels = torch.tensor([0, 0, 0, 1, 1, 2])
    right = torch.tensor([0.9, 0.6, 0.8, 0.7, 0.9, 0.3])  # of its own class; the last one is called 0
    probabilities = torch.full((6, 3), 0.0)
    probabilities[range(6), labels] = right
    probabilities[range(6), (labels + 1) % 3] = 1 - right
    assert finish._golden(probabilities, labels).tolist() == [0, 1, 3, 5]


def test_an_accuracy_below_the_gate_publishes_nothing_and_exits_with_1(tmp_path: Path) -> None:
    result = run_command("training", *QUICK, "--min-accuracy", "1", "--repository", str(tmp_path / "models"))
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert "is below --min-accuracy 100.00%; nothing was published" in line
    assert not (tmp_path / "models").exists()


def test_a_repository_that_cannot_be_written_is_a_clear_line(tmp_path: Path) -> None:
    (tmp_path / "models").write_text("a file, not a folder")
    result = run_command("training", *QUICK, "--min-accuracy", "0", "--repository", str(tmp_path / "models"))
    assert result.returncode == 1
    assert result.stderr.startswith("error: cannot write: ") and len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--epochs", "-1"], "--epochs"),
        (["--min-accuracy", "99"], "--min-accuracy"),
        (["--dataset", "cats"], "cats"),
        (["--model", "vgg"], "vgg"),
        (["--pool", "median"], "median"),
        (["--name", "../models"], "../models"),
        (["--resume", "nowhere"], "--resume nowhere: this is no folder of a run"),
        (["--seed", "x"], "--seed"),
        (["--bogus"], "--bogus"),
    ],
)
def test_a_setting_that_makes_no_sense_is_refused_at_once_with_status_2(flags: list[str], says: str) -> None:
    result = run_command("training", *flags)
    assert result.returncode == 2
    assert says in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.stderr


@full
@pytest.mark.full
def test_a_truncated_mnist_is_one_line_and_status_1(tmp_path: Path) -> None:
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    assert MNIST is not None
    for path in MNIST.glob("*ubyte.gz"):
        (raw / path.name).write_bytes(path.read_bytes()[:1000] if "t10k-images" in path.name else path.read_bytes())
    result = run_command("training", "--dataset", "mnist", "--data-dir", str(tmp_path))
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert str(raw / "t10k-images-idx3-ubyte.gz") in line


def test_help_names_every_flag_that_others_rely_on() -> None:
    result = run_command("training", "--help")
    assert result.returncode == 0
    for flag in (
        "model",
        "dataset",
        "data-dir",
        "repository",
        "epochs",
        "batch-size",
        "seed",
        "min-accuracy",
        "device",
        "pool",
        "recipe",
        "resume",
    ):
        assert f"--{flag}" in result.stdout


def test_list_shows_the_networks_with_what_was_reported_and_reached(published: Path) -> None:
    result = run_command("training", "--list", "--repository", str(published))
    assert result.returncode == 0
    lines = result.stdout.splitlines()
    assert [line.split()[0] for line in lines[1:]] == list(networks.NETWORKS)
    assert "421,642" in lines[1] and "99.23%" in lines[1] and "on mnist-sample, version 1" in lines[1]
    assert "70.40%" in lines[3] and lines[3].endswith("–")


def test_summary_shows_the_layers() -> None:
    result = run_command("training", "--summary", "--model", "cifar10-cnn", "--pool", "global")
    assert result.returncode == 0
    assert "AdaptiveAvgPool" in result.stdout and "64×1×1" in result.stdout and "24,202" in result.stdout


def test_a_network_for_other_images_is_refused_with_both_sizes() -> None:
    result = run_command("training", "--model", "cifar10-cnn", "--dataset", "mnist-sample")
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert line == "error: cifar10-cnn takes images of 32×32×3, and those of mnist-sample are 28×28×1"


def test_a_users_own_pictures_become_a_model_of_their_own(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for label, top in (("day", 255), ("night", 60)):
        (tmp_path / "sky" / label).mkdir(parents=True)
        for number in range(60):
            pixels = random.integers(top - 50, top, (40, 40, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "sky" / label / f"{number}.png")
    flags = [
        "--model",
        "cifar10-lenet",
        "--dataset",
        f"folder:{tmp_path / 'sky'}",
        "--epochs",
        "8",
        "--batch-size",
        "16",
    ]
    result = run_command("training", *flags, "--repository", str(tmp_path / "models"))
    assert result.returncode == 0, result.stderr
    (folder,) = scan(tmp_path / "models")
    assert folder.name == "cifar10-lenet-sky"
    assert (folder.path / "labels.txt").read_text() == "day\nnight\n"
    model = load(folder, 1, EngineOptions(["cpu"], 1))
    assert model.verified and model.spec.outputs[0].labels == ("day", "night")
    model.batcher.close()


def test_nothing_is_trained_if_a_version_is_there_and_that_was_asked_for(published: Path, tmp_path: Path) -> None:
    flags = ("--dataset", "mnist-sample", "--data-dir", str(tmp_path / "none"), "--unless-published")
    before = sorted(published.rglob("*"))
    result = run_command("training", *flags, "--repository", str(published))
    assert result.returncode == 0, result.stderr
    assert result.stdout == (f"{published}/mnist-simplecnn/1 is there; nothing is trained (--unless-published)\n")
    assert sorted(published.rglob("*")) == before
    pictures = tmp_path / "my pictures"
    missing = run_command("training", "--dataset", f"folder:{pictures}", *flags[2:], "--repository", str(published))
    assert missing.returncode == 1 and "is not a folder of images" in missing.stderr, "that one is not there"
    (published / "mnist-simplecnn-my-pictures" / "3").mkdir(parents=True)
    try:
        there = run_command("training", "--dataset", f"folder:{pictures}", *flags[2:], "--repository", str(published))
    finally:
        (published / "mnist-simplecnn-my-pictures" / "3").rmdir()
        (published / "mnist-simplecnn-my-pictures").rmdir()
    assert there.returncode == 0 and "mnist-simplecnn-my-pictures/3 is there" in there.stdout


def test_a_manifest_names_the_commit_that_an_image_was_built_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIMPLECNN_COMMIT", "c0ffee")
    assert finish._commit() == "c0ffee"
    monkeypatch.setenv("SIMPLECNN_COMMIT", "")
    assert finish._commit() != ""
