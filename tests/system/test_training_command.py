"""The command `python -m training`: its flags, exit statuses and messages, and what it publishes."""

import json
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from service.models.engine_settings import EngineOptions
from service.models.loader import load
from service.models.repository.scan import scan
from tests.support.data import MNIST, full
from tests.support.models import copy_repository
from tests.support.paths import ROOT
from tests.support.processes import clean_environment, run_command
from training.networks.registry import NETWORKS

Job = Callable[..., "subprocess.CompletedProcess[str]"]
QUICK = ("--dataset", "mnist-sample", "--epochs", "1", "--device", "cpu")


def test_the_manifest_records_network_data_recipe_metrics_and_versions(published: Path) -> None:
    found = json.loads((published / "mnist-simplecnn" / "1" / "manifest.json").read_text())
    assert found["schema"] == 5
    assert found["fit"] == {"method": "drawing", "version": 1, "share": 20 / 28}
    assert (found["golden"]["tolerance"], found["golden"]["picture_tolerance"]) == (1e-4, 0.0301)
    assert found["golden"]["pictures"] == 4 and 10 <= found["golden"]["samples"] <= 20
    assert found["labels"] == list("0123456789")
    assert found["model"] == found["network"]["name"] == "mnist-simplecnn"
    assert found["network"]["pooling"] == "max" and found["network"]["normalization"].keys() == {"mean", "std"}
    assert found["dataset"]["name"] == "mnist-sample"
    assert (found["dataset"]["training"], found["dataset"]["validation"]) == (4750, 250)
    assert found["dataset"]["test"] == 1000
    metrics = found["metrics"]
    assert 0.9 <= metrics["test_accuracy"] <= 1 and 0.9 <= metrics["validation_accuracy"] <= 1
    confusion = np.array(metrics["confusion"])
    assert confusion.shape == (10, 10) and confusion.sum(1).tolist() == [100] * 10
    assert abs(np.trace(confusion) / 1000 - metrics["test_accuracy"]) < 1e-6
    assert 0 < metrics["calibration_error"] < 0.2 and len(metrics["precision"]) == len(metrics["recall"]) == 10
    assert found["opset"] == 20 and found["run"].endswith("-mnist-simplecnn-seed0")
    assert (found["recipe"]["name"], found["recipe"]["seed"], found["recipe"]["epochs"]) == ("tuned", 0, 4)
    for check in ("parity", "batch_invariance"):
        assert 0 <= found[check]["max_abs_diff"] <= found[check]["tolerance"] == 1e-5
    assert {"python", "torch", "onnx", "onnxscript", "numpy"} <= found["versions"].keys()
    assert len(found["sha256"]) == len(found["golden_sha256"]) == len(found["dataset"]["sha256"]) == 64
    commit = found["commit"].removesuffix("-dirty")
    assert len(commit) == 40


def test_golden_samples_are_test_images_of_every_class(
    published: Path, test_images: tuple[np.ndarray, np.ndarray]
) -> None:
    images, labels = test_images
    with np.load(published / "mnist-simplecnn" / "1" / "golden.npz") as golden:
        samples, probabilities = golden["images"], golden["probabilities"]
    indices = [int((images == sample).all((1, 2, 3)).argmax()) for sample in samples]
    assert all((images[index] == sample).all() for index, sample in zip(indices, samples, strict=True))
    assert sorted(set(labels[indices].tolist())) == list(range(10))
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-5)


def test_an_accuracy_below_the_gate_publishes_nothing_and_exits_with_1(tmp_path: Path) -> None:
    result = run_command("training", *QUICK, "--min-accuracy", "1", "--repository", str(tmp_path / "models"))
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert "is below --min-accuracy 100.00%; nothing was published" in line
    assert not (tmp_path / "models").exists()


def test_a_repository_that_cannot_be_written_is_one_line_and_status_1_before_training(tmp_path: Path, job: Job) -> None:
    models, runs = tmp_path / "models", tmp_path / "runs"
    models.write_text("a file, not a folder")
    result = job(*QUICK, "--repository", str(models), "--runs-dir", str(runs))
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == (
        f"error: cannot write: {models}/mnist-simplecnn: Not a directory; choose another --repository\n"
    )
    assert not runs.exists()


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--epochs", "-1"], "--epochs"),
        (["--min-accuracy", "99"], "--min-accuracy"),
        (["--dataset", "cats"], "cats"),
        (["--model", "vgg"], "vgg"),
        (["--pooling", "median"], "median"),
        (["--pooling-window", "40", "--data-dir", "nowhere"], "40×40 does not fit on a map of 28×28"),
        (["--pooling-stride", "0"], "--pooling-stride"),
        (["--recipe", "best"], "best"),
        (["--name", "../models"], "../models"),
        (["--resume", "nowhere"], "--resume nowhere: not a run folder"),
        (["--seed", "x"], "--seed"),
        (["--bogus"], "--bogus"),
    ],
)
def test_an_invalid_setting_exits_with_2_and_names_the_setting(flags: list[str], says: str, job: Job) -> None:
    result = job(*flags)
    assert result.returncode == 2
    assert says in result.stderr.splitlines()[-1]


@full
@pytest.mark.full
def test_a_truncated_mnist_file_is_one_line_and_status_1(tmp_path: Path, job: Job) -> None:
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    assert MNIST is not None
    for path in MNIST.glob("*ubyte.gz"):
        (raw / path.name).write_bytes(path.read_bytes()[:1000] if "t10k-images" in path.name else path.read_bytes())
    result = job("--dataset", "mnist", "--data-dir", str(tmp_path))
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert str(raw / "t10k-images-idx3-ubyte.gz") in line


def test_version_prints_the_packages_version_without_loading_torch() -> None:
    result = run_command("training", "--version")
    assert (result.returncode, result.stdout, result.stderr) == (0, f"simplecnn {version('simplecnn')}\n", "")
    code = "import sys; sys.modules['torch'] = None; sys.argv = ['training', '--version']\n"
    code += "import runpy; runpy.run_module('training', run_name='__main__')"
    without_torch = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=clean_environment(), capture_output=True, text=True, check=False
    )
    assert (without_torch.returncode, without_torch.stdout) == (0, result.stdout), without_torch.stderr


def test_help_lists_the_flags_that_others_rely_on() -> None:
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
        "pooling",
        "recipe",
        "resume",
        "runs-dir",
        "skip-if-published",
        "version",
    ):
        assert f"--{flag}" in result.stdout


def test_list_shows_each_network_with_its_reference_accuracy_and_that_in_the_repository(
    published: Path, job: Job
) -> None:
    result = job("--list", "--repository", str(published))
    assert result.returncode == 0
    lines = result.stdout.splitlines()
    assert [line.split()[0] for line in lines[1:]] == list(NETWORKS)
    assert "421,642" in lines[1] and "99.23%" in lines[1] and "on mnist-sample, version 1" in lines[1]
    assert "70.40%" in lines[3] and lines[3].endswith("–")


def test_summary_shows_layers_output_shapes_and_parameters(job: Job) -> None:
    result = job("--summary", "--model", "cifar10-cnn", "--pooling", "global")
    assert result.returncode == 0
    assert "AdaptiveAvgPool" in result.stdout and "64×1×1" in result.stdout and "24,202" in result.stdout


def test_a_data_set_of_another_image_shape_is_refused_with_both_shapes(job: Job) -> None:
    result = job("--model", "cifar10-cnn", "--dataset", "mnist-sample")
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert line == "error: cifar10-cnn takes images of 32×32×3; those of mnist-sample are 28×28×1"


def test_a_folder_of_images_is_published_under_a_name_of_its_own_and_can_be_served(tmp_path: Path) -> None:
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
    (folder,) = scan(tmp_path / "models").models
    assert folder.name == "cifar10-lenet-sky"
    assert (folder.path / "labels.txt").read_text() == "day\nnight\n"
    model = load(folder, 1, EngineOptions(["cpu"], 1))
    assert model.verified and model.spec.outputs[0].labels == ("day", "night")
    model.batcher.close()


def test_skip_if_published_trains_nothing_if_the_repository_has_a_version(
    published: Path, tmp_path: Path, job: Job
) -> None:
    flags = ("--dataset", "mnist-sample", "--data-dir", str(tmp_path / "none"), "--skip-if-published")
    repository = copy_repository(published, tmp_path / "models")
    before = sorted(repository.rglob("*"))
    result = job(*flags, "--repository", str(repository))
    assert result.returncode == 0, result.stderr
    assert result.stdout == f"{repository}/mnist-simplecnn/1 exists; nothing to do (--skip-if-published)\n"
    assert sorted(repository.rglob("*")) == before
    pictures = tmp_path / "my pictures"
    missing = job("--dataset", f"folder:{pictures}", *flags[2:], "--repository", str(repository))
    assert missing.returncode == 1 and "is not a folder of images" in missing.stderr, "this model is not published"
    (repository / "mnist-simplecnn-my-pictures" / "3").mkdir(parents=True)
    exists = job("--dataset", f"folder:{pictures}", *flags[2:], "--repository", str(repository))
    assert exists.returncode == 0 and "mnist-simplecnn-my-pictures/3 exists" in exists.stdout


def test_evaluate_prints_the_figures_of_a_published_version_and_publishes_nothing(published: Path, job: Job) -> None:
    versions = sorted((published / "mnist-simplecnn").iterdir())
    result = job("--evaluate", "mnist-simplecnn/1", "--repository", str(published))
    assert result.returncode == 0, result.stderr
    assert "on mnist-sample, test split\naccuracy 9" in result.stdout and "most confused: " in result.stdout
    assert sorted((published / "mnist-simplecnn").iterdir()) == versions


def test_evaluating_a_version_that_is_not_there_is_one_line_and_status_1(tmp_path: Path, job: Job) -> None:
    result = job("--evaluate", "nothing", "--repository", str(tmp_path))
    assert result.returncode == 1
    assert result.stderr.startswith("error: --evaluate nothing: no version there") and result.stderr.count("\n") == 1
