"""`python -m training` as a user types it."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.support import ROOT, clean_environment, run_command
from tests.test_training_data import MNIST, full

QUICK = ("--dataset", "mnist-sample", "--epochs", "1", "--device", "cpu")


def test_a_manifest_says_what_was_made_from_what_and_how_well(published: Path) -> None:
    manifest = json.loads((published / "mnist-simplecnn" / "1" / "manifest.json").read_text())
    assert manifest["schema"] == 1
    assert manifest["model"] == manifest["network"]["name"] == "mnist-simplecnn"
    assert manifest["network"]["pool"] == "max"
    assert manifest["dataset"]["name"] == "mnist-sample"
    assert manifest["dataset"]["training"] + manifest["dataset"]["validation"] == 5000
    assert manifest["dataset"]["test"] == 1000
    assert 0.9 <= manifest["metrics"]["test_accuracy"] <= 1
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
    assert result.stderr.startswith("error: cannot publish into") and len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--epochs", "-1"], "--epochs"),
        (["--min-accuracy", "99"], "--min-accuracy"),
        (["--dataset", "cats"], "cats"),
        (["--seed", "x"], "--seed"),
        (["--bogus"], "--bogus"),
    ],
)
def test_a_setting_that_makes_no_sense_is_refused_at_once_with_status_2(flags: list[str], says: str) -> None:
    result = run_command("training", *flags)
    assert result.returncode == 2
    assert says in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.stderr


def test_ctrl_c_leaves_no_half_made_file(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "training", "--dataset", "mnist-sample", "--epochs", "1000"]
    process = subprocess.Popen(
        [*command, "--repository", str(tmp_path / "models")],
        cwd=ROOT,
        env=clean_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("epoch"):
            break
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.strip() == "interrupted; nothing was published"
    assert list(tmp_path.iterdir()) == []


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
    ):
        assert f"--{flag}" in result.stdout
