"""Run folders as trainings leave them, without training."""

import json
from pathlib import Path
from typing import Any


def write_run(
    runs_dir: Path, name: str, *, epochs: int = 3, facts: dict[str, Any] | None = None, **settings: Any
) -> Path:
    """A run folder whose metrics.jsonl has these epochs; finished if it has facts."""
    folder = runs_dir / name
    folder.mkdir(parents=True)
    defaults = {"model": "mnist-cnn", "dataset": "auto", "recipe": "tuned", "pooling": "max", "epochs": 0, "seed": 0}
    (folder / "settings.json").write_text(json.dumps(defaults | settings))
    lines = [
        {
            "epoch": epoch, "epochs": 5, "step": 10 * epoch, "steps": 50, "images": 1000 * epoch, "loss": 1 / epoch,
            "accuracy": 1 - 0.5 / epoch, "learning_rate": 0.1, "epoch_ended": True,
            "validation_accuracy": 1 - 0.4 / epoch, "images_per_second": 123.0,
        }
        for epoch in range(1, epochs + 1)
    ]  # fmt: skip
    if lines:
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if facts is not None:
        (folder / "facts.json").write_text(json.dumps(facts))
    return folder


def facts(accuracy: float = 0.99, **metrics: Any) -> dict[str, Any]:
    """What a finished run's facts.json has."""
    return {
        "network": {"name": "mnist-cnn", "pooling": "max", "parameters": 421642},
        "dataset": {"name": "mnist", "test": 10000, "sha256": "abc"},
        "recipe": {"name": "tuned", "epochs": 5, "seed": 0},
        "commit": "0123",
        "metrics": {
            "test_accuracy": accuracy,
            "validation_accuracy": 0.98,
            "calibration_error": 0.0123,
            "training_seconds": 20.0,
        }
        | metrics,
    }
