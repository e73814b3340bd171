"""What trackers get of a run: progress and results, without training, and a stand-in for the package mlflow."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from tests.support.runs import facts
from training.evaluation.evaluate import Evaluation
from training.experiment import Experiment
from training.runs.tracking import Results
from training.trainer.progress import TrainingProgress


def progress(epoch: int = 1, *, epoch_ended: bool = True) -> TrainingProgress:
    """Training progress in an epoch of 5 steps."""
    return TrainingProgress(
        epoch=epoch, epochs=3, step=5 * epoch, steps=15, images=9, seconds=1.0, images_per_second=9.0,
        epoch_loss=0.5, epoch_accuracy=0.8, loss=0.5 / epoch, accuracy=0.8, learning_rate=0.1,
        epoch_ended=epoch_ended, validation_accuracy=0.9 if epoch_ended else None,
    )  # fmt: skip


def results(experiment: Experiment, version: Path | None = None) -> Results:
    """Results of an untrained network that takes every test image for a 0."""
    labels = experiment.dataset.test.labels
    probabilities = torch.nn.functional.one_hot(torch.zeros_like(labels), 10).float()
    evaluation = Evaluation(probabilities, 0.1, 2.0, torch.zeros(10, 10), (), (), (), {})
    return Results(experiment.build_model(), evaluation, facts(0.1, confusion=[[1]]), version)


class FakeServer:
    """Stands for MLflow's client: it records every call, and fails while `down` is set."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.down = False
        self.known_runs: list[str] = []

    def __call__(self, tracking_uri: str) -> "FakeServer":
        self.calls.append(("connect", tracking_uri))
        return self

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            self.calls.append((name, *arguments, *options.values()))
            if self.down:
                raise ConnectionError("connection refused\nby the server")
            if name == "search_runs":
                return [SimpleNamespace(info=SimpleNamespace(run_id=run)) for run in self.known_runs]
            return {"create_experiment": "7", "create_run": SimpleNamespace(info=SimpleNamespace(run_id="r1"))}.get(
                name
            )

        return call

    def named(self, name: str) -> list[list[Any]]:
        """The arguments of the calls of this name."""
        return [list(arguments) for called, *arguments in self.calls if called == name]


def install_fake_mlflow(monkeypatch: pytest.MonkeyPatch) -> FakeServer:
    """Put a stand-in for the package mlflow in its place."""
    fake, package, tracking, entities = FakeServer(), *map(ModuleType, ("mlflow", "mlflow.tracking", "mlflow.entities"))
    tracking.MlflowClient = fake  # type: ignore[attr-defined]
    entities.Metric = lambda *values: values  # type: ignore[attr-defined]
    entities.Param = lambda *values: values  # type: ignore[attr-defined]
    for name, module in (("mlflow", package), ("mlflow.tracking", tracking), ("mlflow.entities", entities)):
        monkeypatch.setitem(sys.modules, name, module)
    return fake
