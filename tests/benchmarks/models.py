"""The networks that are measured, in one folder: the published one, and two with random weights for contrast.

Speed does not depend on what weights were learned, so `cifar10-cnn` and `resnet18` are exported untrained, by the code
that exports what is trained.
"""

import shutil
from collections.abc import Callable
from pathlib import Path

import torch
import torchvision
from torch import nn

from training.export import to_onnx
from training.networks import Classifier, Network

MNIST, CIFAR, RESNET = "mnist-simplecnn", "cifar10-cnn", "resnet18"
MAX_BATCH_SIZE = 64


def _cifar10_cnn() -> nn.Module:
    """MODELS.md's cifar10-cnn, until the training job has it."""
    return nn.Sequential(  #            (N,  3, 32, 32)
        nn.Conv2d(3, 32, 3), nn.ReLU(), nn.MaxPool2d(2),  #   (N, 32, 15, 15)
        nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2),  #  (N, 64, 6, 6)
        nn.Flatten(), nn.Linear(64 * 6 * 6, 64), nn.ReLU(), nn.Linear(64, 10),
    )  # fmt: skip


def _resnet18() -> nn.Module:
    network: nn.Module = torchvision.models.resnet18(weights=None)
    return network


UNTRAINED: dict[str, tuple[Callable[[], nn.Module], tuple[int, int, int], int]] = {
    CIFAR: (_cifar10_cnn, (32, 32, 3), 10),
    RESNET: (_resnet18, (224, 224, 3), 1000),
}
SHAPES = {MNIST: (28, 28, 1)} | {name: image for name, (_, image, _) in UNTRAINED.items()}


def repository_with(name: str, published: Path, folder: Path) -> Path:
    """A repository below `folder` with that model alone, made if it is not there; `published` has the trained one."""
    repository = folder / name
    if name == MNIST:
        shutil.rmtree(repository, ignore_errors=True)
        shutil.copytree(published / name, repository / name)
    elif not (repository / name / "1/model.onnx").exists():
        build, image, classes = UNTRAINED[name]
        torch.manual_seed(0)
        network = Network(name, build, image, classes, mean=0.5, std=0.25, datasets=())
        model = to_onnx(Classifier(network, build()), torch.zeros((2, *image), dtype=torch.uint8))
        (repository / name / "1").mkdir(parents=True, exist_ok=True)
        config = f"max_batch_size: {MAX_BATCH_SIZE} dynamic_batching {{ }}\n"
        (repository / name / "config.pbtxt").write_text(config)
        (repository / name / "1/model.onnx").write_bytes(model)
    return repository


def graph_of(repository: Path, name: str) -> Path:
    """The newest version's graph."""
    newest = max(int(path.name) for path in (repository / name).iterdir() if path.name.isdecimal())
    return repository / name / str(newest) / "model.onnx"
