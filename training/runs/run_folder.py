"""The run folder: every file that a training run leaves.

    RUNS_DIR/ID/settings.json     its settings
                metrics.jsonl     training progress, one line per report
                checkpoint.pt     the newest checkpoint
                events…           TensorBoard events, if asked for
                test.npz          the model's probabilities for every test image, and the labels
                report.html       the report
                result.json       what was published, and its test accuracy

Not here: checkpoints (checkpoint.py for the file, trainer.py for its content).
"""

import contextlib
import dataclasses
import io
import json
import time
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from training.atomic_files import write_atomically
from training.errors import TrainingError
from training.settings import Settings
from training.trainer.checkpoint import CheckpointFile
from training.trainer.progress import TrainingProgress

SETTINGS, METRICS, CHECKPOINT, PREDICTIONS, REPORT, RESULT = (
    "settings.json", "metrics.jsonl", "checkpoint.pt", "test.npz", "report.html", "result.json",
)  # fmt: skip
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
        return _read_metrics(self.path / METRICS)

    def write(self, name: str, content: bytes) -> Path:
        """Write a file into the folder, atomically."""
        write_atomically(self.path / name, content)
        return self.path / name

    def write_json(self, name: str, content: object) -> Path:
        """Write a JSON file into the folder, atomically."""
        return self.write(name, json.dumps(content, indent=2, default=str).encode() + b"\n")

    def write_predictions(self, probabilities: NDArray[np.float32], labels: NDArray[np.int64]) -> None:
        """Write the probabilities (N, classes) and labels (N,) of the test images."""
        buffer = io.BytesIO()
        np.savez_compressed(buffer, allow_pickle=False, probabilities=probabilities, labels=labels)
        self.write(PREDICTIONS, buffer.getvalue())


class MetricsLog:
    """Writes training progress to metrics.jsonl and, if asked for, to TensorBoard events.

    If a resumed run repeats steps, their former lines are removed.
    """

    def __init__(self, folder: Path, *, tensorboard: bool = False) -> None:
        self.folder = folder
        self._path = folder / METRICS
        self._tensorboard = tensorboard
        self._events: Any = None
        self._first: tuple[float, int] | None = None  # time and images of the first report

    def __enter__(self) -> Self:
        if self._tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError as error:
                raise TrainingError("--tensorboard needs the package tensorboard: pip install tensorboard") from error
            lines = _read_metrics(self._path)
            self._events = SummaryWriter(str(self.folder), purge_step=lines[-1]["step"] + 1 if lines else None)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._events is not None:
            self._events.close()

    def __call__(self, progress: TrainingProgress) -> None:
        """Append a line."""
        now = time.perf_counter()
        if self._first is None:
            self._remove_lines_from(progress.step)
            self._first = now, progress.images
        started, images = self._first
        line = {
            **dataclasses.asdict(progress),
            "images_per_second": round((progress.images - images) / (now - started), 1) if now > started else None,
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        with self._path.open("a") as file:
            file.write(json.dumps(line) + "\n")
        if self._events is not None:
            for name in ("loss", "accuracy", "learning_rate", "validation_accuracy"):
                if line[name] is not None:
                    self._events.add_scalar(name, line[name], progress.step)

    def _remove_lines_from(self, step: int) -> None:
        kept = [line for line in _read_metrics(self._path) if line["step"] < step]
        write_atomically(self._path, "".join(json.dumps(line) + "\n" for line in kept).encode())


def open_run_folder(settings: Settings, name: str) -> RunFolder:
    """The folder to resume, or a new one for the model `name`.

    Raises:
        TrainingError: the run to resume has already published, and has its report.
    """
    if settings.resume is None:
        saved = settings.model_dump(mode="json", exclude={"resume", "list", "summary", "skip_if_published"})
        return create_run_folder(settings.runs_dir, name, saved)
    folder = RunFolder(settings.resume)
    if folder.result and (folder.path / REPORT).exists():
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


def _read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl; a last line that was cut off is skipped."""
    lines = []
    for line in path.read_text().splitlines() if path.exists() else []:
        with contextlib.suppress(ValueError):
            lines.append(json.loads(line))
    return lines
