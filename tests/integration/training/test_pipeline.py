"""The model comes first: what follows its publication loses nothing, and a run that ended early is resumed."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.integration.training.conftest import RunJob
from tests.support.training import artifact
from training.errors import GateError, NotAccepted
from training.publishing import publish


class Killed(BaseException):
    """Stands in for the end of the process: nothing after it runs."""


def killed(*_: Any, **__: Any) -> None:
    raise Killed


def the_run(folder: Path) -> Path:
    (run,) = (path for path in (folder / "runs").iterdir() if path.is_dir())
    return run


def versions(folder: Path) -> list[Path]:
    return sorted((folder / "models").glob("*/[0-9]*"))


QUICK = {"model": "mnist-simplecnn", "epochs": 2, "batch_size": 100, "min_accuracy": 0.2}


def test_a_run_that_ends_after_its_last_step_is_published_and_reported_by_resume(
    run_job: RunJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The job dies when it evaluates, then when it draws the report, and is resumed each time."""
    with monkeypatch.context() as patch:
        patch.setattr("training.pipeline.evaluate", killed)
        with pytest.raises(Killed):
            run_job(**QUICK)
    run, resumed = the_run(tmp_path), QUICK | {"resume": the_run(tmp_path)}
    trained = (run / "metrics.jsonl").read_bytes()
    assert not (tmp_path / "models").exists()

    with monkeypatch.context() as patch:
        patch.setattr("training.report.page.render", killed)
        with pytest.raises(Killed):
            run_job(**resumed)
    (version,) = versions(tmp_path)
    assert json.loads((run / "result.json").read_text())["published"] == str(version)
    assert not (run / "report.html").exists()

    lines = run_job(**resumed)
    assert f"published {version} before" in lines and lines[-1] == f"report {run / 'report.html'}"
    assert versions(tmp_path) == [version] and (run / "metrics.jsonl").read_bytes() == trained


def test_a_report_that_cannot_be_drawn_leaves_the_published_version_and_says_why(
    run_job: RunJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> str:
        raise StopIteration("no convolution")

    monkeypatch.setattr("training.report.page.render", fail)
    lines = run_job(**QUICK, quantize="int8")
    published = lines.index(f"published {tmp_path}/models/mnist-simplecnn/1")
    assert lines[-1] == "report not written: StopIteration: no convolution"
    assert lines[published + 1].startswith("int8: ") and published == len(lines) - 3


def test_a_run_that_is_refused_before_training_leaves_no_run_folder(run_job: RunJob, tmp_path: Path) -> None:
    """A model of two classes has the name, and then its 8-bit version's."""
    wanted = artifact(name="mnist-simplecnn", label_names=("a", "b"), image_shape=(28, 28, 1))
    first = publish.publish(tmp_path / "models", wanted)
    with pytest.raises(NotAccepted, match=r"config\.pbtxt says dims \[2\], the graph has \[10\]"):
        run_job(**QUICK)
    first.parent.rename(tmp_path / "models" / "mnist-simplecnn-int8")
    with pytest.raises(NotAccepted, match="mnist-simplecnn-int8"):
        run_job(**QUICK, quantize="int8")
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_a_run_below_its_gate_has_a_report_and_is_published_by_resume_with_another_gate(
    run_job: RunJob, tmp_path: Path
) -> None:
    with pytest.raises(GateError):
        run_job(**QUICK | {"min_accuracy": 1.0})
    assert (the_run(tmp_path) / "report.html").exists() and not (tmp_path / "models").exists()
    run_job(**QUICK, resume=the_run(tmp_path))
    assert len(versions(tmp_path)) == 1
