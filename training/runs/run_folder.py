"""The run folder: every file that a training run leaves.

    RUNS_DIR/ID/settings.json     its settings
                metrics.jsonl     training progress, one line per report
                checkpoint.pt     the newest checkpoint
                events…           TensorBoard events, if asked for (tensorboard_tracker.py)
                test.npz          the model's probabilities for every test image, and the labels
                calibration.json  the temperature that the logits are divided by, if it was fitted
                report.html       the report
                facts.json        what the manifest says of the run: network, data, recipe and figures
                result.json       what was published, and its test accuracy
                error.txt         why the run failed, if it did

Not here: a checkpoint's file (trainer/checkpoint.py) and content (trainer/loop.py, pins.py).
"""

import dataclasses
import io
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.atomic_files import write_atomically
from training.errors import TrainingError
from training.runs.files import CHECKPOINT, FACTS, METRICS, PREDICTIONS, REPORT, RESULT, SETTINGS, read_metrics
from training.settings import Settings
from training.strict_json import to_json
from training.trainer.checkpoint import CheckpointFile
from training.trainer.progress import TrainingProgress

# Folders of runs that start in the same second with the same name and seed are numbered up to this.
MAX_RUNS_PER_SECOND = 1000


class RunFolder:
    """The folder of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = CheckpointFile(path / CHECKPOINT)

    @property
    def result(self) -> dict[str, Any] | None:
        """What the run published; None while it has published nothing."""
        path = self.path / RESULT
        if not path.exists():
            return None
        try:
            content: dict[str, Any] = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise TrainingError(f"{path} cannot be read ({error})") from error
        return content

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """Every line of metrics.jsonl."""
        return read_metrics(self.path / METRICS)

    def write(self, name: str, content: bytes) -> Path:
        """Write a file into the folder, atomically."""
        write_atomically(self.path / name, content)
        return self.path / name

    def write_json(self, name: str, content: object) -> Path:
        """Write a JSON file into the folder, atomically."""
        return self.write(name, to_json(content, indent=2).encode() + b"\n")

    def write_facts(self, facts: dict[str, Any]) -> None:
        """Write what the manifest says of the run, without the figures of each class, which test.npz gives."""
        metrics = {name: value for name, value in facts["metrics"].items() if not isinstance(value, list)}
        self.write_json(FACTS, facts | {"metrics": metrics})

    def write_predictions(self, probabilities: NDArray[np.float32], labels: NDArray[np.int64]) -> None:
        """Write the probabilities (N, classes) and labels (N,) of the test images."""
        buffer = io.BytesIO()
        np.savez_compressed(buffer, allow_pickle=False, probabilities=probabilities, labels=labels)
        self.write(PREDICTIONS, buffer.getvalue())


class MetricsLog:
    """Writes training progress to metrics.jsonl. If a resumed run repeats steps, their former lines are removed."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / METRICS
        self._is_first = True  # whether no report came yet

    def __call__(self, progress: TrainingProgress) -> None:
        """Append a line."""
        if self._is_first:
            self._remove_lines_from(progress.step)
            self._is_first = False
        line = dataclasses.asdict(progress) | {"time": datetime.now(UTC).isoformat(timespec="seconds")}
        with self._path.open("a") as file:
            file.write(to_json(line) + "\n")

    def _remove_lines_from(self, step: int) -> None:
        kept = [line for line in read_metrics(self._path) if line["step"] < step]
        write_atomically(self._path, "".join(to_json(line) + "\n" for line in kept).encode())


def open_run_folder(settings: Settings, name: str) -> RunFolder:
    """The folder to resume, or a new one for the model `name`.

    Raises:
        TrainingError: the run to resume has already published, and has its report.
    """
    if settings.resume is None:
        saved = settings.model_dump(mode="json", exclude={"resume", "list", "summary", "evaluate", "skip_if_published"})
        return create_run_folder(settings.runs_dir, name, saved)
    folder = RunFolder(settings.resume)
    wants_int8 = settings.quantize == "int8" and "int8" not in (folder.result or {})
    if folder.result and (folder.path / REPORT).exists() and not wants_int8:
        raise TrainingError(f"{folder.path} has ended; it published {folder.result['published']}")
    return folder


def create_run_folder(runs_dir: Path, name: str, settings: dict[str, Any]) -> RunFolder:
    """Create the folder of a new run and save its settings; the ID is the time, the model's name and the seed."""
    run_id = f"{datetime.now():%Y%m%d-%H%M%S}-{name}-seed{settings['seed']}"
    for number in range(1, MAX_RUNS_PER_SECOND + 1):
        path = runs_dir / (run_id if number == 1 else f"{run_id}.{number}")
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            continue
        folder = RunFolder(path)
        folder.write_json(SETTINGS, settings)
        return folder
    raise TrainingError(f"{runs_dir} already has {MAX_RUNS_PER_SECOND} runs called {run_id}")
