"""The benchmarked networks: the published `mnist-simplecnn`, and two larger ones with random weights.

Speed does not depend on the weights, so `cifar10-cnn` and `resnet18` are exported without training, with the code of
the training job.
"""

import shutil
from pathlib import Path

import torch
import torchvision
from torch import nn

from training.networks.classifier import Normalization
from training.networks.pooling import Pooling
from training.networks.registry import NETWORKS, Hyperparameters, Network
from training.publishing.export import to_onnx

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
    """A model repository below `folder` with the model `name` alone; mnist-simplecnn is copied from `published`."""
    repository = folder / name
    if name == MNIST:
        shutil.rmtree(repository, ignore_errors=True)
        shutil.copytree(published / name, repository / name)
    elif not (repository / name / "1/model.onnx").exists():
        network, classes = UNTRAINED[name]
        torch.manual_seed(0)
        classifier = network.classifier(classes=classes)
        model = to_onnx(classifier, torch.zeros((2, *network.image_shape), dtype=torch.uint8))
        (repository / name / "1").mkdir(parents=True, exist_ok=True)
        config = f"max_batch_size: {MAX_BATCH_SIZE} dynamic_batching {{ }}\n"
        (repository / name / "config.pbtxt").write_text(config)
        (repository / name / "1/model.onnx").write_bytes(model)
    return repository


def graph_of(repository: Path, name: str) -> Path:
    """The ONNX file of the newest version."""
    newest = max(int(path.name) for path in (repository / name).iterdir() if path.name.isdecimal())
    return repository / name / str(newest) / "model.onnx"
