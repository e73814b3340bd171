"""Where the newest checkpoint is stored.

Not here: a checkpoint's content (loop.py), what a run depends on (runs/pins.py).
"""

import io
from pathlib import Path
from typing import Any, Protocol

import torch

from training.atomic_files import write_atomically
from training.errors import TrainingError


class CheckpointStore(Protocol):
    """Stores the newest checkpoint."""

    def load(self) -> dict[str, Any] | None:
        """The newest checkpoint; None if there is none."""

    def save(self, state: dict[str, Any]) -> None:
        """Replace the checkpoint."""


class CheckpointFile:
    """A checkpoint store that is one file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def load(self) -> dict[str, Any] | None:
        """The checkpoint; None if there is none.

        Raises:
            TrainingError: the file is damaged or cannot be read.
        """
        if not self.path.exists():
            return None
        try:
            state: dict[str, Any] = torch.load(self.path, map_location="cpu", weights_only=True)
        except OSError as error:
            raise TrainingError(f"{self.path} cannot be read: {error}") from error
        except Exception as error:  # of many types, whose texts tell to load it without safeguards
            raise TrainingError(
                f"{self.path} cannot be read: its {self.path.stat().st_size:,} bytes are no whole checkpoint "
                f"({type(error).__name__}); delete it to start the run from the first step"
            ) from error
        return state

    def save(self, state: dict[str, Any]) -> None:
        """Replace the checkpoint, atomically."""
        buffer = io.BytesIO()
        torch.save(state, buffer)
        write_atomically(self.path, buffer.getvalue())
