"""The commands that put runs side by side, as processes: bits, signals and messages."""

import json
import signal
from pathlib import Path

import pytest
import torch

from tests.support.processes import run_command
from tests.system.test_training_runs import SHORT, folder_flags, started, wait_for

pytestmark = pytest.mark.slow


def test_the_second_run_of_a_process_has_the_bits_of_the_same_run_alone(tmp_path: Path) -> None:
    both = run_command(
        "training", *SHORT, "--epochs", "1", "--seeds", "2", *folder_flags(tmp_path / "both"), timeout=250
    )
    assert both.returncode == 0, both.stderr
    flags = ("--epochs", "1", "--seed", "1", "--no-publish")
    alone = run_command("training", *SHORT, *flags, *folder_flags(tmp_path / "alone"))
    assert alone.returncode == 0, alone.stderr
    (second,) = (tmp_path / "both" / "runs").glob("*-seed1")
    (run,) = (tmp_path / "alone" / "runs").glob("*-seed1")
    expected, found = (torch.load(folder / "checkpoint.pt", weights_only=True)["model"] for folder in (run, second))
    assert expected.keys() == found.keys() and all(torch.equal(expected[name], found[name]) for name in expected)
    assert (run / "test.npz").read_bytes() == (second / "test.npz").read_bytes()
    assert not (tmp_path / "alone" / "mnist-simplecnn").exists()
    assert alone.stdout.splitlines()[-1] == (
        f"not published (--no-publish); publish with: python -m training --resume {run} --publish"
    )


def test_a_comparison_that_ctrl_c_stopped_says_how_to_resume_and_does(tmp_path: Path) -> None:
    flags = ("--epochs", "300", "--seeds", "2", "--no-publish")
    with started(*SHORT, *flags, *folder_flags(tmp_path)) as process:
        wait_for(process, "epoch 1/300")
        running = run_command("training", "runs", "--runs-dir", str(tmp_path / "runs"))
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGINT
    assert "  running, step " in running.stdout
    (comparison,) = (tmp_path / "runs").glob("*-comparison")
    assert f"0 of 2 runs are finished and kept. Resume with: python -m training --resume {comparison}\n" in errors
    (run,) = (tmp_path / "runs").glob("*-seed0")
    step = torch.load(run / "checkpoint.pt", weights_only=True)["step"]
    listed = run_command("training", "runs", "--runs-dir", str(tmp_path / "runs")).stdout
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])["step"]
    assert f"  stopped at step {last:,} of 14,100\n" in listed
    assert f"continue the newest stopped run: python -m training --resume {run}\n" in listed
    with started("--resume", str(comparison), "--repository", str(tmp_path)) as process:
        assert wait_for(process, "run /") == f"run {run}\n"
        wait_for(process, "epoch ")
        second = run_command("training", "--resume", str(run))
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    assert second.returncode == 1 and f"error: another process trains in {run}" in second.stderr
    assert torch.load(run / "checkpoint.pt", weights_only=True)["step"] > step
    assert len(list((tmp_path / "runs").iterdir())) == 3, "the run, its comparison and index.html"
