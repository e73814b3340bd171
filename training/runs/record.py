"""What is known of each run from its folder: settings, state and figures.

A folder may be of a run that is training now, was killed, is damaged, or is no run at all. Reads small files only and
imports no torch, so that 1,000 runs are listed in less than a second.

Not here: the table (table.py), the page with their curves (report/runs_page.py).
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from training.runs import files
from training.runs.lock import is_locked

State = Literal["running", "finished", "stopped", "failed", "damaged"]


@dataclass(frozen=True)
class RunRecord:
    """One run. Fractions are from 0 to 1; what is not known is None or empty."""

    path: Path
    state: State
    error: str = ""  # why it failed, or what of its folder is damaged
    network: str = ""
    dataset: str = ""
    recipe: str = ""
    pooling: str = ""
    seed: int | None = None
    epochs: int | None = None
    step: int = 0  # the last one that metrics.jsonl has
    steps: int | None = None
    parameters: int | None = None
    validation_accuracy: float | None = None
    test_accuracy: float | None = None
    test_images: int | None = None
    calibration_error: float | None = None  # ECE
    seconds: float | None = None  # of training
    images_per_second: float | None = None
    published: str = ""  # MODEL/VERSION

    @property
    def id(self) -> str:
        """The run's ID, its folder's name."""
        return self.path.name

    @property
    def test_error(self) -> float | None:
        """Standard error of the test accuracy, which says how far another test split of this size would differ."""
        if self.test_accuracy is None or not self.test_images:
            return None
        return math.sqrt(self.test_accuracy * (1 - self.test_accuracy) / self.test_images)

    @property
    def report(self) -> Path | None:
        """Its report, if there is one."""
        path = self.path / files.REPORT
        return path if path.exists() else None

    @property
    def status(self) -> str:
        """The state in words."""
        steps = f"{self.step:,} of {self.steps:,}" if self.steps else "no step"
        match self.state:
            case "running":
                return f"running, step {steps}" if self.steps else "running"
            case "stopped":
                return f"stopped at step {steps}" if self.steps else "stopped before the first report"
            case "failed" | "damaged":
                return f"{self.state}: {self.error}"
        return "finished"

    def matches(self, words: list[str]) -> bool:
        """Whether each word is part of what the table shows of the run."""
        seed = "" if self.seed is None else f"seed{self.seed}"
        shown = " ".join(
            (self.id, self.network, self.dataset, self.recipe, self.pooling, seed, self.published, self.status)
        )
        return all(word.lower() in shown.lower() for word in words)


def read_runs(runs_dir: Path) -> list[RunRecord]:
    """All runs in a folder, by ID, which begins with the time: the newest is the last.

    Folders without settings.json are no runs, or are being created.
    """
    return [read_run(path) for path in _folders(runs_dir) if not (path / files.COMPARISON).exists()]


def comparison_folders(runs_dir: Path) -> list[Path]:
    """The folders of comparisons, the newest last."""
    return [path for path in _folders(runs_dir) if (path / files.COMPARISON_PAGE).exists()]


def read_run(folder: Path) -> RunRecord:
    """The record of the run in this folder."""
    try:
        settings = files.read_json(folder / files.SETTINGS)
        state: State = "running" if is_locked(folder) else "stopped"
    except (OSError, ValueError) as error:
        return RunRecord(folder, "damaged", error=f"{files.SETTINGS} cannot be read ({_one_line(error)})")
    facts, result = _optional(folder / files.FACTS), _optional(folder / files.RESULT)
    failure = _failure(folder / files.ERROR)
    if state != "running":
        state = "failed" if failure else "finished" if facts or result else "stopped"
    return _record(folder, state, failure, settings, facts, result)


def _record(
    folder: Path, state: State, failure: str, settings: dict[str, Any], facts: dict[str, Any], result: dict[str, Any]
) -> RunRecord:
    last = files.last_metrics(folder / files.METRICS)
    seconds = _number(facts, "metrics", "training_seconds")
    images = _number(last, "images")
    # Over the whole run if it ended; else since the process began.
    speed = images / seconds if images and seconds else _number(last, "images_per_second")
    validation = _number(facts, "metrics", "validation_accuracy")
    accuracy = _number(facts, "metrics", "test_accuracy")
    return RunRecord(
        folder,
        state,
        error=failure,
        network=_text(facts, "network", "name") or _text(settings, "model"),
        dataset=_text(facts, "dataset", "name") or _text(settings, "dataset"),
        recipe=_text(settings, "recipe"),
        pooling=_text(settings, "pooling"),
        seed=_integer(settings, "seed"),
        epochs=_integer(facts, "metrics", "epochs") or _integer(last, "epochs") or _integer(settings, "epochs") or None,
        step=_integer(last, "step") or 0,
        steps=_integer(last, "steps"),
        parameters=_integer(facts, "network", "parameters"),
        validation_accuracy=_number(last, "validation_accuracy") if validation is None else validation,
        test_accuracy=_number(result, "test_accuracy") if accuracy is None else accuracy,
        test_images=_integer(facts, "dataset", "test"),
        calibration_error=_number(facts, "metrics", "calibration_error"),
        seconds=seconds,
        images_per_second=speed,
        published="/".join(Path(_text(result, "published")).parts[-2:]),
    )


def _folders(runs_dir: Path) -> list[Path]:
    if not runs_dir.is_dir():
        return []
    return sorted(path for path in runs_dir.iterdir() if _is_run(path))


def _is_run(path: Path) -> bool:
    try:
        return (path / files.SETTINGS).exists()
    except OSError:  # a folder of somebody else
        return False


def _optional(path: Path) -> dict[str, Any]:
    try:
        return files.read_json(path)
    except (OSError, ValueError):
        return {}


def _failure(path: Path) -> str:
    try:
        return _one_line(path.read_text(errors="replace"))
    except OSError:
        return ""


def _one_line(message: object) -> str:
    return " ".join(str(message).split())


def _found(content: dict[str, Any], *keys: str) -> object:
    value: object = content
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _text(content: dict[str, Any], *keys: str) -> str:
    value = _found(content, *keys)
    return _one_line(value) if isinstance(value, str) else ""


def _number(content: dict[str, Any], *keys: str) -> float | None:
    value = _found(content, *keys)
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if is_number else None  # type: ignore[arg-type]


def _integer(content: dict[str, Any], *keys: str) -> int | None:
    value = _number(content, *keys)
    return None if value is None else int(value)
