"""What a report is made from, for a network and a data set of any shape, without training."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from training.data import datasets
from training.data.dataset import Dataset, Split
from training.evaluation.evaluate import evaluate
from training.experiment import prepare
from training.networks.classifier import Normalization
from training.networks.pooling import Pooling
from training.networks.registry import NETWORKS, Hyperparameters, Network
from training.report.section import ReportInput
from training.settings import Settings
from training.trainer.distributed import SINGLE_PROCESS

DIGITS = tuple("0123456789")


def random_split(count: int, shape: tuple[int, int, int], classes: int) -> Split:
    """Noise, with labels that go round."""
    images = torch.randint(0, 256, (count, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return Split(images, torch.arange(count) % classes)


def report_input(
    monkeypatch: pytest.MonkeyPatch,
    build: Callable[[Pooling, int], nn.Module],
    *,
    shape: tuple[int, int, int] = (8, 8, 1),
    names: tuple[str, ...] = DIGITS,
    test: Split | None = None,
    metrics: list[dict[str, Any]] | None = None,
    version: Path | None = None,
    **settings: Any,
) -> ReportInput:
    """The input of a report: an untrained network, noise to train on and unless given to test on."""
    splits = random_split(200, shape, len(names)), test or random_split(50, shape, len(names))
    dataset = Dataset("mnist", *splits, names)
    hyperparameters = Hyperparameters(3, 16)
    network = Network("any", build, shape, "mnist", Normalization(0.5, 0.5), hyperparameters, hyperparameters)
    monkeypatch.setattr(datasets, "load", lambda *_, **__: dataset)
    monkeypatch.setitem(NETWORKS, "any", network)
    torch.manual_seed(0)
    values = {"_cli_parse_args": [], "model": "any", **settings}
    experiment = prepare(Settings(**values), SINGLE_PROCESS)
    model = experiment.build_model().eval()
    evaluation = evaluate(model, dataset.test)
    facts = {
        "run": "a-run", "created": "2026-11-29T12:00:00+00:00", "network": {"parameters": 1_234},
        "metrics": evaluation.metrics() | {"validation_accuracy": 0.5, "training_seconds": 12.3},
    }  # fmt: skip
    return ReportInput(experiment, model, evaluation, metrics or [progress(1), progress(2)], facts, version)


def progress(epoch: int, **changes: Any) -> dict[str, Any]:
    """A line of metrics.jsonl, at the end of an epoch of 10 steps."""
    line = {
        "epoch": epoch, "epochs": 3, "step": 10 * epoch, "steps": 30, "images": 160 * epoch, "loss": 1 / epoch,
        "accuracy": 0.5, "learning_rate": 1e-3, "epoch_ended": True, "validation_accuracy": 0.4,
        "images_per_second": 1000.0,
    }  # fmt: skip
    return line | changes


def convolution(_: Pooling, classes: int) -> nn.Module:
    """A network for images of one channel and any size."""
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(64, classes)
    )


def photo_network(_: Pooling, classes: int) -> nn.Module:
    """A network for images of three channels and any size."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 5, stride=2), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 16, 3), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, classes),
    )  # fmt: skip


def mlp(_: Pooling, classes: int) -> nn.Module:
    """No convolution."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 20), nn.ReLU(), nn.Linear(20, classes))


def nested(_: Pooling, classes: int) -> nn.Module:
    """Blocks in blocks, with batch normalization."""
    block = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True))
    return nn.Sequential(nn.Sequential(block, nn.MaxPool2d(2)), nn.Flatten(), nn.Sequential(nn.Linear(36, classes)))


class Functional(nn.Module):
    """A plain module that calls functions."""

    def __init__(self, _: Pooling, classes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(classes, 64) / 8)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x.flatten(1)) @ self.weight.T


class Rows(nn.Module):
    """A recurrent network over the rows of an image: a layer that returns tuples."""

    def __init__(self, _: Pooling, classes: int) -> None:
        super().__init__()
        self.rows = nn.GRU(8, 6, batch_first=True)
        self.last = nn.Linear(6, classes)

    def forward(self, x: Tensor) -> Tensor:
        output, _ = self.rows(x.squeeze(1))
        result: Tensor = self.last(output[:, -1])
        return result
