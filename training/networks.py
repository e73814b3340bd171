"""The networks, layer for layer, and the wrapper that makes one servable.

Owns: what is computed from raw pixels to probabilities. Does not own: pooling (pooling.py), how weights are found
(recipe.py).

Every network takes scaled images (N, C, H, W) and returns logits (N, classes); `Classifier` puts the scaling before
it and softmax behind it, so that neither can be done differently in training and in serving. A network is one class,
whose shapes stand beside its layers for max pooling, and one entry in `NETWORKS`.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from training.errors import UnknownNetwork
from training.pooling import MAX, Pooling


class SimpleCNN(nn.Sequential):
    """`mnist-simplecnn`: two convolutions, two fully connected layers, 421,642 parameters."""

    def __init__(self, pool: Pooling, classes: int = 10) -> None:
        super().__init__(  #                                (N,  1, 28, 28)
            nn.Conv2d(1, 32, kernel_size=3, padding=1),  #  (N, 32, 28, 28)
            nn.ReLU(),
            pool.between(),  #                              (N, 32, 14, 14)
            nn.Conv2d(32, 64, kernel_size=3, padding=1),  # (N, 64, 14, 14)
            nn.ReLU(),
            pool.last(),  #                                 (N, 64, 7, 7)
            nn.Flatten(),  #                                (N, 3136)
            nn.Linear(64 * pool.area(7), 128),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Linear(128, classes),  #                     (N, 10)
        )


class MnistCNN(nn.Sequential):
    """`mnist-cnn`: pools before it rectifies, and ends in log-softmax; 421,642 parameters."""

    def __init__(self, pool: Pooling, classes: int = 10) -> None:
        super().__init__(  #                                (N,  1, 28, 28)
            nn.Conv2d(1, 32, kernel_size=3, padding=1),  #  (N, 32, 28, 28)
            pool.between(),  #                              (N, 32, 14, 14)
            nn.ReLU(),
            nn.Conv2d(32, 64, kernel_size=3, padding=1),  # (N, 64, 14, 14)
            pool.last(),  #                                 (N, 64, 7, 7)
            nn.ReLU(),
            nn.Flatten(),  #                                (N, 3136)
            nn.Linear(64 * pool.area(7), 128),
            nn.ReLU(),
            nn.Linear(128, classes),  #                     (N, 10)
            # Logits already: softmax of log-softmax is softmax, and cross-entropy of it the same likelihood.
            nn.LogSoftmax(dim=1),
        )


class CifarCNN(nn.Sequential):
    """`cifar10-cnn`: as Keras initialises it, which is Glorot's uniform and no bias; 167,562 parameters."""

    def __init__(self, pool: Pooling, classes: int = 10) -> None:
        super().__init__(  #                      (N,  3, 32, 32)
            nn.Conv2d(3, 32, kernel_size=3),  #   (N, 32, 30, 30)
            nn.ReLU(),
            pool.between(),  #                    (N, 32, 15, 15)
            nn.Conv2d(32, 64, kernel_size=3),  #  (N, 64, 13, 13)
            nn.ReLU(),
            pool.last(),  #                       (N, 64, 6, 6)
            nn.Flatten(),  #                      (N, 2304)
            nn.Linear(64 * pool.area(6), 64),
            nn.ReLU(),
            nn.Linear(64, classes),  #            (N, 10)
        )
        for layer in self:
            if isinstance(layer, nn.Conv2d | nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                assert layer.bias is not None
                nn.init.zeros_(layer.bias)


class LeNet(nn.Sequential):
    """`cifar10-lenet`: LeNet-5's shape on colour images; 62,006 parameters."""

    def __init__(self, pool: Pooling, classes: int = 10) -> None:
        super().__init__(  #                     (N,  3, 32, 32)
            nn.Conv2d(3, 6, kernel_size=5),  #   (N,  6, 28, 28)
            nn.ReLU(),
            pool.between(),  #                   (N,  6, 14, 14)
            nn.Conv2d(6, 16, kernel_size=5),  #  (N, 16, 10, 10)
            nn.ReLU(),
            pool.last(),  #                      (N, 16, 5, 5)
            nn.Flatten(),  #                     (N, 400)
            nn.Linear(16 * pool.area(5), 120),
            nn.ReLU(),
            nn.Linear(120, 84),
            nn.ReLU(),
            nn.Linear(84, classes),  #           (N, 10)
        )


@dataclass(frozen=True)
class Scaling:
    """What a network sees of a pixel x: (x/255 − mean) / std."""

    mean: float
    std: float


@dataclass(frozen=True)
class Plan:
    """How long to train and in which steps; the rest is recipe.py's."""

    epochs: int
    batch_size: int
    learning_rate: float = 1e-3
    label_smoothing: float = 0.0


@dataclass(frozen=True)
class Network:
    """An entry of the table: how to build it, what it takes, and how it is trained."""

    name: str
    build: Callable[[Pooling, int], nn.Sequential]  # given the pooling and the number of classes
    image: tuple[int, int, int]  # (H, W, C)
    dataset: str  # that it is meant for, and trained on by default
    scaling: Scaling  # as others had it
    paper: Plan  # as others did it
    best: Plan  # as we do, found on validation images
    least: float = 0.0  # test accuracy below which it is not what it should be
    reported: float | None = None  # test accuracy, by others


NETWORKS = {
    network.name: network
    for network in (
        Network(
            name="mnist-simplecnn",
            build=SimpleCNN,
            image=(28, 28, 1),
            dataset="mnist",
            scaling=Scaling(0.5, 0.5),
            paper=Plan(5, 64),
            best=Plan(25, 256, 4e-3, label_smoothing=0.05),
            least=0.9,
            reported=0.9923,
        ),
        Network(
            name="mnist-cnn",
            build=MnistCNN,
            image=(28, 28, 1),
            dataset="mnist",
            scaling=Scaling(0.1307, 0.3081),
            paper=Plan(4, 64),
            best=Plan(25, 256, 4e-3, label_smoothing=0.05),
            least=0.9,
            reported=0.9901,
        ),
        Network(
            name="cifar10-cnn",
            build=CifarCNN,
            image=(32, 32, 3),
            dataset="cifar10",
            scaling=Scaling(0.0, 1.0),
            paper=Plan(10, 32),
            best=Plan(40, 256, 8e-3),
            least=0.6,
            reported=0.7040,
        ),
        Network(
            name="cifar10-lenet",
            build=LeNet,
            image=(32, 32, 3),
            dataset="cifar10",
            scaling=Scaling(0.5, 0.5),
            paper=Plan(2, 100),  # no optimiser was given
            best=Plan(40, 256, 8e-3),
            least=0.45,
        ),
    )
}


def network_called(name: str) -> Network:
    """The entry of that name.

    Raises:
        UnknownNetwork: there is none.
    """
    if name not in NETWORKS:
        raise UnknownNetwork(f"--model {name!r}: there are {', '.join(NETWORKS)}")
    return NETWORKS[name]


class Classifier(nn.Module):
    """A network with everything around it that serving needs: raw pixels in, probabilities out."""

    def __init__(
        self, network: Network, pool: Pooling = MAX, classes: int = 10, scaling: Scaling | None = None
    ) -> None:
        super().__init__()
        self.body = network.build(pool, classes)
        scaling = scaling or network.scaling
        # (x/255 − mean)/std as one multiplication and one addition.
        self.scale = 1 / (255 * scaling.std)
        self.shift = -scaling.mean / scaling.std

    def prepare(self, images: Tensor) -> Tensor:
        """Raw pixels (N, H, W, C), uint8 or between, to scaled float32 (N, C, H, W)."""
        # In this order: ONNX Runtime multiplies far slower where the last axis has one element, as grey images' has.
        return images.permute(0, 3, 1, 2).to(torch.float32) * self.scale + self.shift

    def forward(self, images: Tensor) -> Tensor:
        """Raw uint8 (N, H, W, C) to probabilities float32 (N, classes)."""
        return torch.softmax(self.body(self.prepare(images)), dim=1)
