"""Several runs in one process, `--seeds` and `--pooling all`: what they leave, also when they are stopped or fail."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from training import comparison, pipeline, runs_command
from training.errors import Interrupted, TrainingError
from training.networks.pooling import KINDS
from training.runs.record import read_runs
from training.settings import Settings
from training.signals import SignalHandler


class NoSignals(SignalHandler):
    """Handles no signal, and asks for a stop at one of the questions whether to stop."""

    def __init__(self, stop_at: int = -1) -> None:
        self.questions, self.stop_at = 0, stop_at
        self.signal_number = 0
        self._deferring = False

    def should_stop(self) -> bool:
        self.questions += 1
        return self.questions == self.stop_at


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 240 random images of two classes."""
    random, folder = np.random.default_rng(0), tmp_path_factory.mktemp("pictures")
    for label, top in (("dark", 90), ("light", 255)):
        (folder / label).mkdir()
        for number in range(120):
            pixels = random.integers(top - 80, top, (28, 28), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / label / f"{number}.png")
    return folder


def settings(pictures: Path, folder: Path, **changes: Any) -> Settings:
    """Settings of one short epoch, which publish into the folder and write runs below it."""
    given: dict[str, Any] = {
        "dataset": f"folder:{pictures}", "fit": "resize", "epochs": 1, "batch_size": 32, "device": "cpu",
        "min_accuracy": 0.0, "name": "shades", "repository": folder, "runs_dir": folder / "runs",
    }  # fmt: skip
    return Settings.model_construct(**given | changes)


def weights(run: Path) -> dict[str, torch.Tensor]:
    """The weights in the newest checkpoint of a run."""
    found: dict[str, torch.Tensor] = torch.load(run / "checkpoint.pt", weights_only=True)["model"]
    return found


@pytest.mark.slow
def test_seeds_are_runs_of_their_own_with_one_published_and_mean_and_deviation(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    comparison.run(settings(pictures, tmp_path, seed=3, seeds=2), NoSignals())
    output = capsys.readouterr().out
    first, second = read_runs(tmp_path / "runs")
    assert (first.seed, first.published, first.status) == (3, "shades/1", "finished")
    assert (second.seed, second.published, second.status) == (4, "", "finished")
    assert json.loads((tmp_path / "shades" / "1" / "manifest.json").read_text())["run"] == first.id
    accuracies = [first.test_accuracy, second.test_accuracy]
    mean, deviation = 100 * np.mean(accuracies), 100 * np.std(accuracies, ddof=1)  # type: ignore[arg-type]
    assert f"mean ± sample standard deviation\n  max  {mean:.2f} ± {deviation:.2f}  2 seeds\n" in output
    assert "published the first seed's model, 3, and not the best on the test split" in output
    page = tmp_path / "runs" / f"{first.id}-comparison" / "comparison.html"
    assert f"comparison {page}\n" in output and f"{mean:.2f} ± {deviation:.2f}" in page.read_text()

    (tmp_path / "alone").mkdir()
    pipeline.run(settings(pictures, tmp_path / "alone", seed=4, publish=False), NoSignals())
    (alone,) = read_runs(tmp_path / "alone" / "runs")
    expected, found = weights(alone.path), weights(second.path)
    assert expected.keys() == found.keys() and all(torch.equal(expected[name], found[name]) for name in expected)

    assert not (tmp_path / "alone" / "shades").exists()
    pipeline.run(settings(pictures, tmp_path / "alone", seed=4, resume=alone.path), NoSignals())
    assert read_runs(tmp_path / "alone" / "runs")[0].published == "shades/1", "--resume RUN --publish"

    assert runs_command.main(["--runs-dir", str(tmp_path / "runs"), "seed3", "max"]) == 0
    header, row, end = capsys.readouterr().out.splitlines()[-3:]
    assert header.split()[0] == "run" and first.id in row and end == f"page {tmp_path / 'runs' / 'index.html'}"
    assert f"{page.parent.name}/comparison.html" in (tmp_path / "runs" / "index.html").read_text()
    assert runs_command.main(["--runs-dir", str(tmp_path / "runs"), "avg"]) == 1
    assert capsys.readouterr().err == f"{tmp_path / 'runs'} holds no runs that match avg\n"


@pytest.mark.slow
def test_every_kind_of_pooling_is_trained_and_drawn_and_nothing_is_published(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(comparison, "KINDS", ("max", "global", "mixed"))  # all of them take longer
    comparison.run(settings(pictures, tmp_path, pooling="all"), NoSignals())
    assert "published nothing: to publish one, python -m training --resume RUN --publish" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]
    runs = read_runs(tmp_path / "runs")
    assert [run.pooling for run in runs] == ["max", "global", "mixed"]
    folder = tmp_path / "runs" / f"{runs[0].id}-comparison"
    pictures_of = json.loads((folder / "comparison.json").read_text())["pictures"]
    assert {kind: len(found) for kind, found in pictures_of.items()} == {"input": 2, "max": 2, "global": 2, "mixed": 2}
    assert (folder / "comparison.html").read_text().count("<img ") == 8

    (folder / "comparison.html").unlink()
    monkeypatch.setattr(pipeline, "run", lambda *_, **__: pytest.fail("a finished run was trained again"))
    comparison.run(settings(pictures, tmp_path, pooling="all", resume=folder), NoSignals())
    assert (folder / "comparison.html").read_text().count("<img ") == 8


def test_a_stopped_comparison_keeps_finished_runs_and_resumes_the_others(pictures: Path, tmp_path: Path) -> None:
    given = settings(pictures, tmp_path, seeds=3, publish=False)
    steps = 6  # of one run
    with pytest.raises(Interrupted, match="1 of 3 runs are finished and kept") as stopped:
        comparison.run(given, NoSignals(stop_at=steps + 3))
    finished, interrupted = read_runs(tmp_path / "runs")
    assert (finished.status, interrupted.state) == ("finished", "stopped")
    folder = tmp_path / "runs" / f"{finished.id}-comparison"
    assert str(stopped.value).endswith(f"Resume with: python -m training --resume {folder}")
    assert "1 of 3 runs are finished" in (folder / "comparison.html").read_text()
    signals = NoSignals()
    comparison.run(given.model_copy(update={"resume": folder}), signals)
    assert [run.status for run in read_runs(tmp_path / "runs")] == ["finished"] * 3
    assert signals.questions == steps - 3 + steps, "finished steps were trained again"
    (folder / "comparison.json").write_text("{")
    with pytest.raises(TrainingError, match=r"comparison\.json cannot be read"):
        comparison.run(given.model_copy(update={"resume": folder}), NoSignals())


def test_a_run_that_fails_does_not_end_those_after_it(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(TrainingError, match=r"1 of 2 runs failed: .*-seed0: .* is below"):
        comparison.run(settings(pictures, tmp_path, seeds=2, min_accuracy=1.1), NoSignals())
    first, second = read_runs(tmp_path / "runs")
    assert first.status.startswith("failed: test accuracy") and second.status == "finished"
    assert "2 seeds" in capsys.readouterr().out, "its accuracy counts all the same"


def test_what_no_run_can_begin_with_ends_the_comparison_at_once(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="is not a folder of images"):
        comparison.run(settings(tmp_path / "nowhere", tmp_path, seeds=2), NoSignals())
    assert not (tmp_path / "runs").exists()


def test_several_runs_and_torchrun_exclude_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(TrainingError, match="start them without torchrun"):
        comparison.run(settings(tmp_path, tmp_path, seeds=2), NoSignals())


def test_every_kind_is_trained_with_one_seed_before_the_next_and_only_one_run_publishes(tmp_path: Path) -> None:
    members = comparison.members(settings(tmp_path, tmp_path, pooling="all", seeds=2))
    assert [(member.pooling, member.seed) for member in members] == [(kind, seed) for seed in (0, 1) for kind in KINDS]
    assert not any(member.publish for member in members)
    several = comparison.members(settings(tmp_path, tmp_path, seed=5, seeds=3))
    assert [(member.seed, member.publish) for member in several] == [(5, True), (6, False), (7, False)]
    assert not comparison.is_comparison(settings(tmp_path, tmp_path))
