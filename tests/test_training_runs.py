"""A run can be stopped in any way and continued, alone or in a group, and nothing of it is lost or doubled."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.support.paths import ROOT
from tests.support.processes import clean_environment, run_command
from training import runs
from training.errors import TrainingError
from training.recipe import Step
from training.signals import Signals

SHORT = ("--dataset", "mnist-sample", "--device", "cpu", "--min-accuracy", "0")


@contextmanager
def started(*flags: str, tool: tuple[str, ...] = ("-m", "training")) -> Iterator[subprocess.Popen[str]]:
    """A training job that has been started."""
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
    """The first line of output that has the text in it."""
    assert process.stdout is not None
    return next(line for line in process.stdout if text in line)


def run_folder(output: str) -> Path:
    """The folder that a job said it writes to."""
    found = re.search(r"^run (.*)$", output, re.MULTILINE)
    assert found
    return Path(found[1])


def steps(folder: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def graph(repository: Path) -> bytes:
    return (repository / "mnist-simplecnn" / "1" / "model.onnx").read_bytes()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The repository and the folder of a run of 3 epochs that nothing disturbed."""
    folder = tmp_path_factory.mktemp("undisturbed")
    result = run_command("training", *SHORT, "--epochs", "3", "--repository", str(folder), "--runs", str(folder / "r"))
    assert result.returncode == 0, result.stderr
    return folder, run_folder(result.stdout)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_run_that_was_ended_goes_on_to_the_same_bits(
    number: signal.Signals, undisturbed: tuple[Path, Path], tmp_path: Path
) -> None:
    with started(*SHORT, "--epochs", "3", "--repository", str(tmp_path), "--runs", str(tmp_path / "r")) as process:
        folder = run_folder(wait_for(process, "run "))
        wait_for(process, "epoch 1/3")
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == (-number if number == signal.SIGKILL else 128 + number), errors
    if number != signal.SIGKILL:
        said = re.search(r"stopped at step (\d+) of 141; nothing was published, what was done is kept", errors)
        assert said, errors
        assert f"go on with: python -m training --resume {folder}" in errors
        assert torch.load(folder / "checkpoint.pt", weights_only=True)["step"] == int(said[1])
    assert not (tmp_path / "mnist-simplecnn").exists()
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5')  # a line that was cut off

    result = run_command("training", "--resume", str(folder), "--repository", str(tmp_path))
    assert result.returncode == 0, result.stderr
    assert graph(tmp_path) == graph(undisturbed[0])
    assert steps(folder) == steps(undisturbed[1])
    again = run_command("training", "--resume", str(folder))
    assert again.returncode == 1 and "has ended: it was published as" in again.stderr


def test_a_run_leaves_its_settings_figures_answers_and_report(undisturbed: tuple[Path, Path]) -> None:
    repository, folder = undisturbed
    assert sorted(path.name for path in folder.iterdir()) == [
        "checkpoint.pt", "metrics.jsonl", "report.html", "result.json", "settings.json", "test.npz",
    ]  # fmt: skip
    assert json.loads((folder / "settings.json").read_text())["epochs"] == 3
    assert json.loads((folder / "result.json").read_text())["published"] == str(repository / "mnist-simplecnn" / "1")
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert steps(folder) == [25, 47, 50, 75, 94, 100, 125, 141]
    assert [line["epoch"] for line in lines if line["ended"]] == [1, 2, 3]
    assert all(line["images_per_second"] > 0 for line in lines[1:])
    with np.load(folder / "test.npz") as kept:
        assert kept["probabilities"].shape == (1000, 10)
        accuracy = float((kept["probabilities"].argmax(1) == kept["labels"]).mean())
    manifest = json.loads((repository / "mnist-simplecnn" / "1" / "manifest.json").read_text())
    assert manifest["metrics"]["test_accuracy"] == pytest.approx(accuracy) and manifest["run"] == folder.name


def test_a_run_is_continued_with_its_own_settings(undisturbed: tuple[Path, Path]) -> None:
    result = run_command("training", "--resume", str(undisturbed[1]), "--epochs", "9")
    assert result.returncode == 2
    assert result.stderr == "error: --epochs 9: the run has 3, and is continued with its own settings\n"


def test_a_damaged_checkpoint_is_one_line(undisturbed: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "settings.json").write_text((undisturbed[1] / "settings.json").read_text())
    (tmp_path / "checkpoint.pt").write_bytes((undisturbed[1] / "checkpoint.pt").read_bytes()[:-5000])
    result = run_command("training", "--resume", str(tmp_path))
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert "checkpoint.pt cannot be read" in line and "delete it to begin the run anew" in line


def test_a_checkpoint_is_replaced_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = runs.begin(tmp_path, "m", {"seed": 1}, tensorboard=False)
    folder.save({"step": 1})

    def fail(_: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="no space"):
        folder.save({"step": 2})
    assert folder.load() == {"step": 1}
    assert sorted(path.name for path in folder.path.iterdir()) == ["checkpoint.pt", "settings.json"]


def test_two_runs_of_the_same_second_have_folders_of_their_own(tmp_path: Path) -> None:
    folders = [runs.begin(tmp_path, "m", {"seed": 1}, tensorboard=False) for _ in range(3)]
    assert len({folder.path for folder in folders}) == 3


def test_tensorboard_gets_the_curves(tmp_path: Path) -> None:
    event_file = pytest.importorskip("tensorboard.backend.event_processing.event_file_loader")
    folder = runs.begin(tmp_path, "m", {"seed": 1}, tensorboard=True)
    step = Step(epoch=1, epochs=1, step=5, steps=5, images=9, loss=0.5, accuracy=0.8, learning_rate=0.1, validation=0.9)
    with folder as report:
        report(step)
    (path,) = folder.path.glob("events*")
    found = {
        value.tag: value.tensor.float_val[0]
        for event in event_file.EventFileLoader(str(path)).Load()
        for value in event.summary.value
    }
    assert found == pytest.approx({"loss": 0.5, "accuracy": 0.8, "learning_rate": 0.1, "validation": 0.9})


def test_without_its_package_that_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with (
        pytest.raises(TrainingError, match="pip install tensorboard"),
        runs.begin(tmp_path, "m", {"seed": 1}, tensorboard=True),
    ):
        pass


# --- processes that train together ---

TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "training")


def test_two_processes_learn_what_one_does(undisturbed: tuple[Path, Path], tmp_path: Path) -> None:
    with started(
        *SHORT, "--epochs", "3", "--repository", str(tmp_path), "--runs", str(tmp_path / "r"), tool=TORCHRUN
    ) as process:
        output, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors
    assert "on 2 × cpu" in output and output.count("published") == 1 and output.count("epoch 3/3") == 1
    alone, together = (
        json.loads((repository / "mnist-simplecnn" / "1" / "manifest.json").read_text())["metrics"]
        for repository in (undisturbed[0], tmp_path)
    )
    assert together["test_accuracy"] == pytest.approx(alone["test_accuracy"], abs=0.02)
    assert together["test_accuracy"] > 0.9


def test_a_group_that_is_stopped_can_be_continued(tmp_path: Path) -> None:
    flags = (*SHORT, "--epochs", "3", "--repository", str(tmp_path), "--runs", str(tmp_path / "r"))
    with started(*flags, tool=TORCHRUN) as process:
        folder = run_folder(wait_for(process, "run "))
        wait_for(process, "epoch 1/3")
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    assert torch.load(folder / "checkpoint.pt", weights_only=True)["step"] < 141
    with started("--resume", str(folder), "--repository", str(tmp_path), tool=TORCHRUN) as process:
        output, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors
    assert "epoch 3/3" in output and (tmp_path / "mnist-simplecnn" / "1").is_dir()


# --- what runs out ---


def test_memory_that_runs_out_says_which_setting_to_lower(tmp_path: Path) -> None:
    code = "import resource, runpy, sys; sys.argv = ['training', *sys.argv[1:]]\n"
    code += "import torch; used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
    code += "resource.setrlimit(resource.RLIMIT_AS, (used + 700 * 2**20,) * 2)\n"
    code += "runpy.run_module('training', run_name='__main__')"
    flags = [*SHORT, "--batch-size", "4000", "--repository", str(tmp_path), "--runs", str(tmp_path / "r")]
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


def test_a_second_signal_ends_at_once_and_outside_training_the_first_does(monkeypatch: pytest.MonkeyPatch) -> None:
    handlers: dict[int, Callable[[int, None], None]] = {}
    monkeypatch.setattr("signal.signal", handlers.__setitem__)
    signals = Signals()
    with signals:
        assert not signals()
        handlers[signal.SIGTERM](signal.SIGTERM, None)
        assert signals() and signals.number == signal.SIGTERM
        with pytest.raises(KeyboardInterrupt):
            handlers[signal.SIGINT](signal.SIGINT, None)
    later = Signals()
    with pytest.raises(KeyboardInterrupt):
        handlers[signal.SIGTERM](signal.SIGTERM, None)
    assert later.number == signal.SIGTERM
