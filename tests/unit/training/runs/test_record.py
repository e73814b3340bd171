"""What is read of each run folder, whatever lies in it, and the lock that tells a run that trains."""

import json
import math
import time
from pathlib import Path

import pytest

from tests.support.runs import facts, write_run
from training.errors import TrainingError
from training.runs.lock import is_locked, run_lock
from training.runs.record import read_run, read_runs


def test_a_finished_run_has_its_figures(tmp_path: Path) -> None:
    folder = write_run(tmp_path, "a", facts=facts(0.99), epochs=5, seed=7)
    (folder / "result.json").write_text(json.dumps({"published": "/models/mnist-cnn/3", "test_accuracy": 0.99}))
    run = read_run(folder)
    assert (run.state, run.status, run.published) == ("finished", "finished", "mnist-cnn/3")
    assert (run.network, run.dataset, run.recipe, run.pooling) == ("mnist-cnn", "mnist", "tuned", "max")
    assert (run.seed, run.epochs, run.parameters, run.test_images) == (7, 5, 421642, 10000)
    assert (run.validation_accuracy, run.test_accuracy, run.calibration_error) == (0.98, 0.99, 0.0123)
    assert (run.seconds, run.images_per_second) == (20.0, 250.0)
    assert run.test_error == pytest.approx(0.000995, rel=1e-3)


def test_a_run_without_an_end_is_stopped_and_says_at_which_step(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path, "a"))
    assert run.status == "stopped at step 30 of 50"
    assert run.epochs == 5 and run.validation_accuracy == pytest.approx(1 - 0.4 / 3) and run.test_accuracy is None
    assert read_run(write_run(tmp_path, "b", epochs=0)).status == "stopped before the first report"


def test_a_run_whose_process_holds_the_lock_is_running(tmp_path: Path) -> None:
    folder = write_run(tmp_path, "a")
    with run_lock(folder):
        assert read_run(folder).status == "running, step 30 of 50"
    assert read_run(folder).state == "stopped"


def test_a_failed_run_gives_the_reason_in_one_line_and_keeps_its_accuracy(tmp_path: Path) -> None:
    folder = write_run(tmp_path, "a", facts=facts(0.5))
    (folder / "error.txt").write_text("test accuracy 50.00%\nis below 90.00%\n")
    run = read_run(folder)
    assert (run.status, run.test_accuracy) == ("failed: test accuracy 50.00% is below 90.00%", 0.5)


def test_folders_that_are_no_runs_are_passed_over_and_damaged_ones_are_said(tmp_path: Path) -> None:
    (tmp_path / "being-created").mkdir()
    (tmp_path / "index.html").write_text("")
    write_run(tmp_path, "a-comparison").joinpath("comparison.json").write_text("{}")
    for name, content in (("b", b'{"model": "mni'), ("c", b"[1]"), ("d", b"\xff\xfe"), ("e", b"")):
        write_run(tmp_path, name).joinpath("settings.json").write_bytes(content)
    write_run(tmp_path, "f").joinpath("settings.json").unlink()
    (tmp_path / "f" / "settings.json").mkdir()
    runs = read_runs(tmp_path)
    assert [run.id for run in runs] == ["b", "c", "d", "e", "f"]
    assert all(run.status.startswith("damaged: settings.json cannot be read (") for run in runs)
    assert read_runs(tmp_path / "nowhere") == []


def test_files_that_are_damaged_or_of_another_format_leave_cells_empty(tmp_path: Path) -> None:
    folder = write_run(
        tmp_path,
        "a",
        facts={"network": "x", "dataset": [], "metrics": {"test_accuracy": "high", "calibration_error": math.nan}},
    )
    (folder / "settings.json").write_text(json.dumps({"model": ["x"], "seed": "1", "epochs": None}))
    (folder / "metrics.jsonl").write_bytes(b'\xff\n{"step": NaN}\n[1]\n{"step": "x", "steps": true, "epochs": {}}\n{"')
    (folder / "result.json").write_text("nothing")
    run = read_run(folder)
    assert (run.state, run.network, run.dataset, run.seed, run.epochs) == ("finished", "", "", None, None)
    assert (run.step, run.steps, run.test_accuracy, run.calibration_error) == (0, None, None, None)


def test_a_line_that_was_cut_off_leaves_the_one_before(tmp_path: Path) -> None:
    folder = write_run(tmp_path, "a")
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 40, "st')
    assert read_run(folder).step == 30


def test_words_must_all_be_part_of_what_the_table_shows(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path, "a", seed=7, pooling="avg-topk"))
    assert run.matches([]) and run.matches(["MNIST-cnn", "topk", "seed7", "stopped"])
    assert not run.matches(["mnist-cnn", "finished"])


def test_a_thousand_runs_are_read_in_less_than_a_second_of_processor_time(tmp_path: Path) -> None:
    for number in range(1000):
        write_run(tmp_path, f"run{number:04}", facts=facts(), epochs=30)
    started = time.process_time()
    assert len(read_runs(tmp_path)) == 1000
    assert time.process_time() - started < 1


def test_two_processes_cannot_train_in_one_folder(tmp_path: Path) -> None:
    with run_lock(tmp_path), pytest.raises(TrainingError, match="another process trains in"), run_lock(tmp_path):
        pass
    assert not is_locked(tmp_path)
    with run_lock(tmp_path):
        assert is_locked(tmp_path)
