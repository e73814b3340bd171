"""The networks, layer for layer, and the classifier around them: raw pixels in, probabilities out.

A network takes normalized images (N, C, H, W) and returns logits (N, classes). `Classifier` adds normalization before
it and softmax after it, so that training and serving cannot differ in either. To add a network, write one class and one
entry in `NETWORKS`. The comments beside the layers give output shapes with max pooling.

Not here: pooling layers (pooling.py), training (recipe.py, trainer.py).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from training.errors import UnknownNetwork
from training.pooling import MAX_POOLING, Pooling


class SimpleCNN(nn.Sequential):
    """`mnist-simplecnn`: two convolutions, two fully connected layers, 421,642 parameters."""

    def __init__(self, pooling: Pooling, classes: int = 10) -> None:
        super().__init__(  #                                (N,  1, 28, 28)
            nn.Conv2d(1, 32, kernel_size=3, padding=1),  #  (N, 32, 28, 28)
            nn.ReLU(),
            pooling.layer(),  #                             (N, 32, 14, 14)
            nn.Conv2d(32, 64, kernel_size=3, padding=1),  # (N, 64, 14, 14)
            nn.ReLU(),
            pooling.last_layer(),  #                        (N, 64, 7, 7)
            nn.Flatten(),  #                                (N, 3136)
            nn.Linear(64 * pooling.output_area(7), 128),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Linear(128, classes),  #                     (N, 10)
        )


class MnistCNN(nn.Sequential):
    """`mnist-cnn`: pooling before ReLU, log-softmax at the end; 421,642 parameters."""

    def __init__(self, pooling: Pooling, classes: int = 10) -> None:
        super().__init__(  #                                (N,  1, 28, 28)
            nn.Conv2d(1, 32, kernel_size=3, padding=1),  #  (N, 32, 28, 28)
            pooling.layer(),  #                             (N, 32, 14, 14)
            nn.ReLU(),
            nn.Conv2d(32, 64, kernel_size=3, padding=1),  # (N, 64, 14, 14)
            pooling.last_layer(),  #                        (N, 64, 7, 7)
            nn.ReLU(),
            nn.Flatten(),  #                                (N, 3136)
            nn.Linear(64 * pooling.output_area(7), 128),
            nn.ReLU(),
            nn.Linear(128, classes),  #                     (N, 10)
            # Still logits: softmax of log-softmax is softmax, and cross-entropy does not change.
            nn.LogSoftmax(dim=1),
        )


class CifarCNN(nn.Sequential):
    """`cifar10-cnn`: initialized as in Keras, Glorot uniform weights and zero biases; 167,562 parameters."""

    def __init__(self, pooling: Pooling, classes: int = 10) -> None:
        super().__init__(  #                      (N,  3, 32, 32)
            nn.Conv2d(3, 32, kernel_size=3),  #   (N, 32, 30, 30)
            nn.ReLU(),
            pooling.layer(),  #                   (N, 32, 15, 15)
            nn.Conv2d(32, 64, kernel_size=3),  #  (N, 64, 13, 13)
            nn.ReLU(),
            pooling.last_layer(),  #              (N, 64, 6, 6)
            nn.Flatten(),  #                      (N, 2304)
            nn.Linear(64 * pooling.output_area(6), 64),
            nn.ReLU(),
            nn.Linear(64, classes),  #            (N, 10)
        )
        for layer in self:
            if isinstance(layer, nn.Conv2d | nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                assert layer.bias is not None
                nn.init.zeros_(layer.bias)


class LeNet(nn.Sequential):
    """`cifar10-lenet`: LeNet-5 for colour images; 62,006 parameters."""

    def __init__(self, pooling: Pooling, classes: int = 10) -> None:
        super().__init__(  #                     (N,  3, 32, 32)
            nn.Conv2d(3, 6, kernel_size=5),  #   (N,  6, 28, 28)
            nn.ReLU(),
            pooling.layer(),  #                  (N,  6, 14, 14)
            nn.Conv2d(6, 16, kernel_size=5),  #  (N, 16, 10, 10)
            nn.ReLU(),
            pooling.last_layer(),  #             (N, 16, 5, 5)
            nn.Flatten(),  #                     (N, 400)
            nn.Linear(16 * pooling.output_area(5), 120),
            nn.ReLU(),
            nn.Linear(120, 84),
            nn.ReLU(),
            nn.Linear(84, classes),  #           (N, 10)
        )


@dataclass(frozen=True)
class Normalization:
    """A network's input for a pixel x: (x/255 − mean) / std, with one mean and std for all channels."""

    mean: float
    std: float


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
    build: Callable[[Pooling, int], nn.Sequential]  # (pooling, number of classes)
    image_shape: tuple[int, int, int]  # (H, W, C)
    dataset: str  # its own, which `--dataset auto` takes
    normalization: Normalization  # of the reference recipe
    reference: Hyperparameters  # of the network's source
    tuned: Hyperparameters  # ours, chosen on validation images
    min_accuracy: float = 0.0  # on the test split of its own data set; less means that training went wrong
    reference_accuracy: float | None = None  # on the test split, as the network's source reports it


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
            min_accuracy=0.45,
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


class Classifier(nn.Module):
    """A network with normalization before it and softmax after it: raw pixels in, probabilities out."""

    def __init__(
        self,
        network: Network,
        pooling: Pooling = MAX_POOLING,
        classes: int = 10,
        normalization: Normalization | None = None,
    ) -> None:
        super().__init__()
        self.body = network.build(pooling, classes)
        normalization = normalization or network.normalization
        # (x/255 − mean)/std as one multiplication and one addition.
        self.scale = 1 / (255 * normalization.std)
        self.shift = -normalization.mean / normalization.std

    def normalize(self, images: Tensor) -> Tensor:
        """Raw pixels (N, H, W, C), uint8 or float from 0 to 255, to normalized float32 (N, C, H, W)."""
        # Permute first: ONNX Runtime multiplies far slower if the last axis has one element, as in (N, H, W, 1).
        return images.permute(0, 3, 1, 2).to(torch.float32) * self.scale + self.shift

    def forward(self, images: Tensor) -> Tensor:
        """Raw uint8 (N, H, W, C) to probabilities float32 (N, classes)."""
        return torch.softmax(self.body(self.normalize(images)), dim=1)


@torch.inference_mode()
def predict(model: nn.Module, images: Tensor, *, batch_size: int = 1000) -> Tensor:
    """Probabilities float32 (N, classes) of raw images (N, H, W, C), computed in float32."""
    model.eval()
    return torch.cat([model(batch) for batch in images.split(batch_size)])
