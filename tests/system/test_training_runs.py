"""A run that was stopped in any way can be resumed, in one process or several, and repeats or loses no step."""

import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

import training
from tests.support.paths import ROOT
from tests.support.processes import clean_environment, run_command
from tests.support.training import SAMPLE
from training.networks.classifier import predict

Job = Callable[..., "subprocess.CompletedProcess[str]"]
SHORT = ("--dataset", "mnist-sample", "--device", "cpu", "--min-accuracy", "0")


def folder_flags(folder: Path) -> tuple[str, ...]:
    """Flags that publish into the folder and write the run below it."""
    return ("--repository", str(folder), "--runs-dir", str(folder / "runs"))


@contextmanager
def started(*flags: str, tool: tuple[str, ...] = ("-m", "training")) -> Iterator[subprocess.Popen[str]]:
    """A running training job; killed at the end if it still runs."""
    process = subprocess.Popen(
        [sys.executable, *tool, *flags],
        cwd=ROOT,
        env=clean_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def wait_for(process: subprocess.Popen[str], text: str) -> str:
    """The first line of output that contains the text."""
    assert process.stdout is not None
    return next(line for line in process.stdout if text in line)


def printed_run_folder(output: str) -> Path:
    """The run folder that a job printed."""
    found = re.search(r"^run (.*)$", output, re.MULTILINE)
    assert found
    return Path(found[1])


def logged_steps(folder: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def published_graph(repository: Path) -> tuple[str, bytes]:
    """The digest of the graph in the manifest, and the published graph without its description, which has the run."""
    version = repository / "mnist-simplecnn" / "1"
    model = onnx.load(version / "model.onnx")
    return json.loads((version / "manifest.json").read_text())["graph_sha256"], model.graph.SerializeToString()


@pytest.fixture
def uninterrupted(trained: tuple[Path, Path]) -> tuple[Path, Path]:
    """The repository and the run folder of an uninterrupted run of 4 epochs."""
    return trained


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGKILL,
        pytest.param(signal.SIGTERM, marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, marks=pytest.mark.slow),
    ],
)
def test_a_run_that_a_signal_stopped_resumes_and_publishes_the_same_bits(
    number: signal.Signals, uninterrupted: tuple[Path, Path], tmp_path: Path
) -> None:
    with started(*SHORT, "--epochs", "4", *folder_flags(tmp_path)) as process:
        folder = printed_run_folder(wait_for(process, "run "))
        wait_for(process, "epoch 2/4")  # the first epoch's checkpoint exists, the second's may be being written
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == (-number if number == signal.SIGKILL else 128 + number), errors
    if number != signal.SIGKILL:
        stopped = re.search(r"stopped at step (\d+) of 188; nothing was published", errors)
        assert stopped, errors
        assert f"Resume with: python -m training --resume {folder}\n" in errors
        assert torch.load(folder / "checkpoint.pt", weights_only=True)["step"] == int(stopped[1])
    assert not (tmp_path / "mnist-simplecnn").exists()
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5')  # a line that was cut off

    result = run_command("training", "--resume", str(folder), "--repository", str(tmp_path))
    assert result.returncode == 0, result.stderr
    assert re.search(r"^resuming at step \d+ of 188$", result.stdout, re.MULTILINE), result.stdout
    assert published_graph(tmp_path) == published_graph(uninterrupted[0])
    assert logged_steps(folder) == logged_steps(uninterrupted[1])
    again = run_command("training", "--resume", str(folder))
    assert again.returncode == 1 and "has ended; it published" in again.stderr


def test_a_run_folder_holds_settings_metrics_checkpoint_predictions_report_and_result(
    uninterrupted: tuple[Path, Path],
) -> None:
    repository, folder = uninterrupted
    assert sorted(path.name for path in folder.iterdir()) == [
        "checkpoint.pt", "facts.json", "metrics.jsonl", "report.html", "result.json", "settings.json", "test.npz",
    ]  # fmt: skip
    assert json.loads((folder / "settings.json").read_text())["epochs"] == 4
    assert json.loads((folder / "result.json").read_text())["published"] == str(repository / "mnist-simplecnn" / "1")
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert logged_steps(folder) == [25, 47, 72, 94, 119, 141, 166, 188]
    assert [line["epoch"] for line in lines if line["epoch_ended"]] == [1, 2, 3, 4]
    assert all(line["images_per_second"] > 0 for line in lines)
    with np.load(folder / "test.npz") as predictions:
        assert predictions["probabilities"].shape == (1000, 10)
        accuracy = float((predictions["probabilities"].argmax(1) == predictions["labels"]).mean())
    manifest = json.loads((repository / "mnist-simplecnn" / "1" / "manifest.json").read_text())
    assert manifest["metrics"]["test_accuracy"] == pytest.approx(accuracy) and manifest["run"] == folder.name


def test_a_resumed_run_refuses_other_settings(uninterrupted: tuple[Path, Path], job: Job) -> None:
    result = job("--resume", str(uninterrupted[1]), "--epochs", "9")
    assert result.returncode == 2
    assert result.stderr == "error: --epochs 9: the run has 4, and a resumed run keeps its settings\n"


def test_a_damaged_checkpoint_is_one_line_and_status_1(
    uninterrupted: tuple[Path, Path], tmp_path: Path, job: Job
) -> None:
    (tmp_path / "settings.json").write_text((uninterrupted[1] / "settings.json").read_text())
    (tmp_path / "checkpoint.pt").write_bytes((uninterrupted[1] / "checkpoint.pt").read_bytes()[:-5000])
    result = job("--resume", str(tmp_path))
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert "checkpoint.pt cannot be read" in line and "delete it to start the run from the first step" in line


@pytest.fixture(scope="module")
def of_pictures(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A folder of pictures of three digits, and the folder of a run on it that took all steps and did not publish."""
    folder = tmp_path_factory.mktemp("pictures")
    for index in range(60):
        digit, image = index % 3, SAMPLE.train.images[SAMPLE.train.labels == index % 3][index]
        (folder / "digits" / str(digit)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[:, :, 0].numpy()).save(folder / "digits" / str(digit) / f"{index}.png")
    flags = ("--dataset", f"folder:{folder / 'digits'}", "--fit", "none", "--epochs", "1", "--device", "cpu")
    result = run_command("training", *flags, "--min-accuracy", "1", *folder_flags(folder))
    assert result.returncode == 1 and "below --min-accuracy" in result.stderr, result.stdout + result.stderr
    return folder / "digits", printed_run_folder(result.stdout)


@pytest.mark.slow
def test_a_run_whose_data_changed_is_not_resumed_and_one_that_did_not_publish_can_be(
    of_pictures: tuple[Path, Path], tmp_path: Path
) -> None:
    pictures, folder = of_pictures
    more = pictures / "1" / "more.png"
    Image.new("L", (28, 28), 77).save(more)
    refused = run_command("training", "--resume", str(folder), "--min-accuracy", "0", "--repository", str(tmp_path))
    assert refused.returncode == 1
    (line,) = refused.stderr.splitlines()
    assert line.startswith("error: the run cannot be resumed, because what it trains on has changed: ")
    assert re.search(r"images of '1': \d+ before, \d+ now", line)
    assert not list(tmp_path.iterdir())
    more.unlink()
    result = run_command("training", "--resume", str(folder), "--min-accuracy", "0", "--repository", str(tmp_path))
    assert result.returncode == 0, result.stderr
    steps = torch.load(folder / "checkpoint.pt", weights_only=True)["step"]
    assert f"resuming at step {steps} of {steps}\n" in result.stdout and "epoch 1/1" not in result.stdout
    assert (tmp_path / "mnist-simplecnn-digits" / "1" / "model.onnx").exists()


def test_a_loaded_run_answers_as_the_job_did(uninterrupted: tuple[Path, Path]) -> None:
    model = training.load(uninterrupted[1])
    assert model.labels == tuple("0123456789") and model.fit.method == "drawing"
    with np.load(uninterrupted[1] / "test.npz") as predictions:
        np.testing.assert_allclose(predict(model, SAMPLE.test.images), predictions["probabilities"], atol=1e-6)


# --- distributed training ---

TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "training")


@pytest.mark.slow
def test_two_processes_reach_the_accuracy_of_one(uninterrupted: tuple[Path, Path], tmp_path: Path) -> None:
    with started(*SHORT, "--epochs", "4", *folder_flags(tmp_path), tool=TORCHRUN) as process:
        output, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors
    assert "device: 2 × cpu" in output and output.count("published") == 1 and output.count("epoch 4/4") == 1
    one, two = (
        json.loads((repository / "mnist-simplecnn" / "1" / "manifest.json").read_text())["metrics"]
        for repository in (uninterrupted[0], tmp_path)
    )
    assert two["test_accuracy"] == pytest.approx(one["test_accuracy"], abs=0.02)
    assert two["test_accuracy"] > 0.9


@pytest.mark.slow
def test_a_stopped_run_of_two_processes_can_be_resumed(tmp_path: Path) -> None:
    with started(*SHORT, "--epochs", "4", *folder_flags(tmp_path), tool=TORCHRUN) as process:
        folder = printed_run_folder(wait_for(process, "run "))
        wait_for(process, "epoch 1/4")
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    assert torch.load(folder / "checkpoint.pt", weights_only=True)["step"] < 188
    with started("--resume", str(folder), "--repository", str(tmp_path), tool=TORCHRUN) as process:
        output, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors
    assert "epoch 4/4" in output and (tmp_path / "mnist-simplecnn" / "1").is_dir()


# --- memory and signals ---


def test_running_out_of_memory_is_one_line_that_names_the_setting_to_lower(tmp_path: Path) -> None:
    code = "import resource, runpy, sys; sys.argv = ['training', *sys.argv[1:]]\n"
    code += "import torch; used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
    code += "resource.setrlimit(resource.RLIMIT_AS, (used + 700 * 2**20,) * 2)\n"
    code += "runpy.run_module('training', run_name='__main__')"
    flags = [*SHORT, "--batch-size", "4000", *folder_flags(tmp_path)]
    result = subprocess.run(
        [sys.executable, "-c", code, *flags],
        cwd=ROOT,
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1, result.stderr
    assert result.stderr == "error: out of memory on cpu with batches of 4000 images: lower --batch-size\n"
