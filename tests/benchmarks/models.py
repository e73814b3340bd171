"""The networks that are measured, in one folder: the published one, and two with random weights for contrast.

Speed does not depend on what weights were learned, so `cifar10-cnn` and `resnet18` are exported untrained, by the code
that exports what is trained.
"""

import shutil
from pathlib import Path

import torch
import torchvision
from torch import nn

from training.export import to_onnx
from training.networks import NETWORKS, Classifier, Hyperparameters, Network, Normalization
from training.pooling import Pooling

MNIST, CIFAR, RESNET = "mnist-simplecnn", "cifar10-cnn", "resnet18"
MAX_BATCH_SIZE = 64


def _resnet18(_: Pooling, classes: int) -> nn.Sequential:
    return nn.Sequential(torchvision.models.resnet18(weights=None, num_classes=classes))


UNTRAINED = {
    CIFAR: (NETWORKS[CIFAR], 10),
    RESNET: (
        Network(
            RESNET,
            _resnet18,
            (224, 224, 3),
            "",
            Normalization(0.5, 0.25),
            reference=Hyperparameters(1, 1),
            tuned=Hyperparameters(1, 1),
        ),
        1000,
    ),
}
SHAPES = {MNIST: (28, 28, 1)} | {name: network.image_shape for name, (network, _) in UNTRAINED.items()}


def repository_with(name: str, published: Path, folder: Path) -> Path:
    """A repository below `folder` with that model alone, made if it is not there; `published` has the trained one."""
    repository = folder / name
    if name == MNIST:
        shutil.rmtree(repository, ignore_errors=True)
        shutil.copytree(published / name, repository / name)
    elif not (repository / name / "1/model.onnx").exists():
        network, classes = UNTRAINED[name]
        torch.manual_seed(0)
        classifier = Classifier(network, classes=classes)
        model = to_onnx(classifier, torch.zeros((2, *network.image_shape), dtype=torch.uint8))
        (repository / name / "1").mkdir(parents=True, exist_ok=True)
        config = f"max_batch_size: {MAX_BATCH_SIZE} dynamic_batching {{ }}\n"
        (repository / name / "config.pbtxt").write_text(config)
        (repository / name / "1/model.onnx").write_bytes(model)
    return repository


def graph_of(repository: Path, name: str) -> Path:
    """The newest version's graph."""
    newest = max(int(path.name) for path in (repository / name).iterdir() if path.name.isdecimal())
    return repository / name / str(newest) / "model.onnx"
