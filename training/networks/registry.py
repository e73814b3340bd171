"""The registry of networks: how each is built, which images it takes, and its hyperparameters.

To add a network, write a class or a function that returns an `nn.Module`, and one entry in `NETWORKS`.

Not here: the layers (architectures.py), the recipes (trainer/recipe.py).
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from training.errors import UnknownNetwork
from training.networks.architectures import CifarCNN, LeNet, MnistCNN, OneLayer, SimpleCNN
from training.networks.classifier import Classifier, Normalization
from training.networks.pooling import MAX_POOLING, Pooling
from training.networks.teachers import CifarTeacher, MnistTeacher


@dataclass(frozen=True)
class Hyperparameters:
    """What a recipe sets for each network; recipe.py has the rest."""

    epochs: int
    batch_size: int
    learning_rate: float = 1e-3
    label_smoothing: float = 0.0


@dataclass(frozen=True)
class Network:
    """An entry of `NETWORKS`: how to build a network, which images it takes, and how to train it."""

    name: str
    build: Callable[[Pooling, int], nn.Module]  # (pooling, number of classes)
    image_shape: tuple[int, int, int]  # (H, W, C)
    dataset: str  # its own, which `--dataset auto` takes
    normalization: Normalization  # of the reference recipe
    reference: Hyperparameters  # of the network's source
    tuned: Hyperparameters  # ours, chosen on validation images
    distilled: Hyperparameters | None = None  # ours with teachers; None takes those of `tuned`
    min_accuracy: float = 0.0  # on the test split of its own data set; less means that training went wrong
    reference_accuracy: float | None = None  # on the test split, as the network's source reports it

    def classifier(
        self, pooling: Pooling = MAX_POOLING, classes: int = 10, normalization: Normalization | None = None
    ) -> Classifier:
        """The network with its initial weights, between normalization and softmax."""
        return Classifier(self.build(pooling, classes), normalization or self.normalization)


NETWORKS = {
    network.name: network
    for network in (
        Network(
            name="mnist-simplecnn",
            build=SimpleCNN,
            image_shape=(28, 28, 1),
            dataset="mnist",
            normalization=Normalization(0.5, 0.5),
            reference=Hyperparameters(5, 64),
            tuned=Hyperparameters(25, 256, 4e-3, label_smoothing=0.05),
            distilled=Hyperparameters(60, 256, 4e-3),
            min_accuracy=0.9,
            reference_accuracy=0.9923,
        ),
        Network(
            name="mnist-cnn",
            build=MnistCNN,
            image_shape=(28, 28, 1),
            dataset="mnist",
            normalization=Normalization(0.1307, 0.3081),
            reference=Hyperparameters(4, 64),
            tuned=Hyperparameters(25, 256, 4e-3, label_smoothing=0.05),
            distilled=Hyperparameters(60, 256, 4e-3),
            min_accuracy=0.9,
            reference_accuracy=0.9901,
        ),
        Network(
            name="cifar10-cnn",
            build=CifarCNN,
            image_shape=(32, 32, 3),
            dataset="cifar10",
            normalization=Normalization(0.0, 1.0),
            reference=Hyperparameters(10, 32),
            tuned=Hyperparameters(40, 256, 8e-3),
            distilled=Hyperparameters(120, 256, 8e-3),
            min_accuracy=0.6,
            reference_accuracy=0.7040,
        ),
        Network(
            name="cifar10-lenet",
            build=LeNet,
            image_shape=(32, 32, 3),
            dataset="cifar10",
            normalization=Normalization(0.5, 0.5),
            reference=Hyperparameters(2, 100),  # the source names no optimizer
            tuned=Hyperparameters(40, 256, 8e-3),
            distilled=Hyperparameters(200, 256, 8e-3),
            min_accuracy=0.45,
        ),
        Network(
            name="cifar10-onelayer",
            build=OneLayer,
            image_shape=(32, 32, 3),
            dataset="cifar10",
            normalization=Normalization(0.5, 0.5),
            reference=Hyperparameters(10, 64),  # ours: there is no source
            tuned=Hyperparameters(20, 256, 8e-3),
            min_accuracy=0.45,
        ),
        Network(
            name="mnist-teacher",
            build=MnistTeacher,
            image_shape=(28, 28, 1),
            dataset="mnist",
            normalization=Normalization(0.5, 0.5),
            reference=Hyperparameters(5, 64),
            tuned=Hyperparameters(12, 256, 6e-3, label_smoothing=0.05),
            min_accuracy=0.9,
        ),
        Network(
            name="cifar10-teacher",
            build=CifarTeacher,
            image_shape=(32, 32, 3),
            dataset="cifar10",
            normalization=Normalization(0.5, 0.5),
            reference=Hyperparameters(10, 64),
            tuned=Hyperparameters(16, 256, 1e-2),
            min_accuracy=0.6,
        ),
    )
}


def find_network(name: str) -> Network:
    """The network's entry in `NETWORKS`.

    Raises:
        UnknownNetwork: no network has this name.
    """
    if name not in NETWORKS:
        raise UnknownNetwork(f"--model {name!r}: no such network; choose from {', '.join(NETWORKS)}")
    return NETWORKS[name]
