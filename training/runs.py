"""What a run leaves behind, in a folder of its own.

    RUNS/ID/settings.json     what it was asked to do
            metrics.jsonl     a line a report: step, loss, accuracy, images a second
            checkpoint.pt     the last one, replaced as a whole
            events…           TensorBoard's, if asked for
            test.npz          probabilities of every test image, as torch gave them
            report.html       the pictures
            result.json       what was published, and how good it is

Owns: these files, and that a run which is continued has no line twice. Does not own: what is in a checkpoint
(recipe.py).
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
import torch
from numpy.typing import NDArray

from training.errors import TrainingError
from training.files import write_atomically
from training.recipe import Step

SETTINGS, METRICS, CHECKPOINT, PREDICTIONS, REPORT, RESULT = (
    "settings.json", "metrics.jsonl", "checkpoint.pt", "test.npz", "report.html", "result.json",
)  # fmt: skip


class RunFolder:
    """The folder of one run: a keeper of checkpoints and, as a context, a display of progress."""

    def __init__(self, path: Path, *, tensorboard: bool = False) -> None:
        self.path = path
        self._tensorboard = tensorboard
        self._events: Any = None
        self._began: tuple[float, int] | None = None  # when the first report came, and with how many images

    @property
    def settings(self) -> dict[str, Any]:
        """What the run was asked to do.

        Raises:
            TrainingError: the folder is none of a run.
        """
        return self._read(SETTINGS, "is no run: it has no settings.json")

    @property
    def result(self) -> dict[str, Any] | None:
        """What came of it; None while nothing has."""
        return self._read(RESULT, "") if (self.path / RESULT).exists() else None

    @property
    def history(self) -> list[dict[str, Any]]:
        """Every report of progress; a last line that was cut off is none."""
        path = self.path / METRICS
        found = []
        for line in path.read_text().splitlines() if path.exists() else []:
            with contextlib.suppress(ValueError):
                found.append(json.loads(line))
        return found

    def write(self, name: str, content: bytes) -> Path:
        """Put a file into the folder, whole."""
        write_atomically(self.path / name, content)
        return self.path / name

    def write_json(self, name: str, content: object) -> Path:
        """As write(), of something that JSON can hold."""
        return self.write(name, json.dumps(content, indent=2, default=str).encode() + b"\n")

    def write_predictions(self, probabilities: NDArray[np.float32], labels: NDArray[np.int64]) -> None:
        """Keep what was answered for every test image."""
        buffer = io.BytesIO()
        np.savez_compressed(buffer, allow_pickle=False, probabilities=probabilities, labels=labels)
        self.write(PREDICTIONS, buffer.getvalue())

    # --- a keeper of checkpoints ---

    def load(self) -> dict[str, Any] | None:
        """The checkpoint, or None.

        Raises:
            TrainingError: it cannot be read.
        """
        path = self.path / CHECKPOINT
        if not path.exists():
            return None
        try:
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:
            raise TrainingError(f"{path} cannot be read ({error}); delete it to begin the run anew") from error
        return state

    def save(self, state: dict[str, Any]) -> None:
        """Replace the checkpoint."""
        buffer = io.BytesIO()
        torch.save(state, buffer)
        self.write(CHECKPOINT, buffer.getvalue())

    # --- a display ---

    def __enter__(self) -> Self:
        if self._tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError as error:
                raise TrainingError("--tensorboard needs the package tensorboard: pip install tensorboard") from error
            steps = self.history
            self._events = SummaryWriter(str(self.path), purge_step=steps[-1]["step"] + 1 if steps else None)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._events is not None:
            self._events.close()

    def __call__(self, state: Step) -> None:
        """Note where training stands."""
        now = time.perf_counter()
        if self._began is None:  # what was noted of steps that are taken again goes
            kept = [line for line in self.history if line["step"] < state.step]
            write_atomically(self.path / METRICS, "".join(json.dumps(line) + "\n" for line in kept).encode())
            self._began = now, state.images
        began, images = self._began
        line = {
            **dataclasses.asdict(state),
            "images_per_second": round((state.images - images) / (now - began), 1) if now > began else None,
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        with (self.path / METRICS).open("a") as file:
            file.write(json.dumps(line) + "\n")
        if self._events is not None:
            for name in ("loss", "accuracy", "learning_rate", "validation"):
                if line[name] is not None:
                    self._events.add_scalar(name, line[name], state.step)

    def _read(self, name: str, otherwise: str) -> dict[str, Any]:
        try:
            content: dict[str, Any] = json.loads((self.path / name).read_text())
        except (OSError, ValueError) as error:
            raise TrainingError(f"{self.path} {otherwise or f'has a damaged {name}'} ({error})") from error
        return content


def begin(runs: Path, name: str, settings: dict[str, Any], *, tensorboard: bool) -> RunFolder:
    """Make the folder of a new run; its ID is the time, the model's name and the seed."""
    stem = f"{datetime.now():%Y%m%d-%H%M%S}-{name}-seed{settings['seed']}"
    for number in range(1, 1000):
        path = runs / (stem if number == 1 else f"{stem}.{number}")
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            continue
        folder = RunFolder(path, tensorboard=tensorboard)
        folder.write_json(SETTINGS, settings)
        return folder
    raise TrainingError(f"{runs} has a thousand runs called {stem}")
