"""Trackers: listeners that show a run elsewhere while it trains, and what they show of it.

Not here: the trackers (tensorboard_tracker.py, mlflow_tracker.py), the files of the run (run_folder.py).
"""

import dataclasses
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from training.evaluation.evaluate import Evaluation
from training.experiment import Experiment
from training.networks.classifier import Classifier
from training.trainer.progress import TrainingProgress

SCALARS = {
    "loss", "accuracy", "learning_rate", "images_per_second", "validation_accuracy", "validation_loss", "test_accuracy",
    "test_loss",
}  # fmt: skip


@dataclass(frozen=True)
class Results:
    """What a run ended with."""

    model: Classifier
    evaluation: Evaluation
    facts: dict[str, Any]  # those of the manifest
    version: Path | None  # the folder of the published version


class Tracker(AbstractContextManager["Tracker"], Protocol):
    """Listens to training progress, from before the first step until the results are there."""

    def __call__(self, progress: TrainingProgress) -> None: ...

    def log_results(self, results: Results) -> None:
        """Show the results; called once, at the end of a run that reached it."""


def scalars(progress: TrainingProgress) -> dict[str, float]:
    """What changes from step to step: losses, accuracies, the learning rate, images per second."""
    values = dataclasses.asdict(progress)
    return {name: value for name, value in values.items() if isinstance(value, float) and name in SCALARS}


def final_scalars(facts: dict[str, Any]) -> dict[str, float]:
    """The single figures of the results, such as the test accuracy.

    The validation accuracy is that of the weights that were kept; the curve of it ends with the last epoch's.
    """
    metrics: dict[str, Any] = facts["metrics"]
    return {
        name.replace("validation_", "kept_validation_"): float(value)
        for name, value in metrics.items()
        if isinstance(value, int | float)
    }


def hyperparameters(experiment: Experiment) -> dict[str, str | int | float | bool]:
    """Network, data and every field of the recipe, nested ones as `augmentation.shift`."""
    given = {
        "network": experiment.network.name,
        "pooling": experiment.settings.pooling,
        "dataset": experiment.dataset.name,
        "fit": experiment.fit.method,
    }
    return given | _flat(dataclasses.asdict(experiment.recipe))


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, str | int | float | bool]:
    flat: dict[str, str | int | float | bool] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value if isinstance(value, str | int | float) else str(value)
    return flat
