"""The networks, layer for layer, and the wrapper that makes one servable.

Owns: what is computed from raw pixels to probabilities. Does not own: how weights are found (recipe.py).

Every network takes scaled images (N, C, H, W) and returns logits (N, classes); `Classifier` puts the scaling before
it and softmax behind it, so that neither can be done differently in training and in serving.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn


class SimpleCNN(nn.Module):
    """`mnist-simplecnn`: two convolutions, two fully connected layers, 421,642 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(  #                (N,  1, 28, 28)
            nn.Conv2d(1, 32, kernel_size=3, padding=1),  # (N, 32, 28, 28)
            nn.ReLU(),
            nn.MaxPool2d(2),  #                            (N, 32, 14, 14)
            nn.Conv2d(32, 64, kernel_size=3, padding=1),  # (N, 64, 14, 14)
            nn.ReLU(),
            nn.MaxPool2d(2),  #                            (N, 64, 7, 7)
        )
        self.head = nn.Sequential(
            nn.Flatten(),  #                               (N, 3136)
            nn.Linear(64 * 7 * 7, 128),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Linear(128, 10),  #                         (N, 10)
        )

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(x))
        return logits


@dataclass(frozen=True)
class Network:
    """An entry of the table: how to build it, what it takes, and how its input is scaled.

    `mean` and `std` are in units of x/255; the network sees (x/255 − mean) / std.
    """

    name: str
    build: Callable[[], nn.Module]
    image: tuple[int, int, int]  # (H, W, C)
    classes: int
    mean: float
    std: float
    datasets: tuple[str, ...]  # what it can be trained on; the first is the default


NETWORKS = {
    network.name: network
    for network in (
        Network("mnist-simplecnn", SimpleCNN, (28, 28, 1), 10, mean=0.5, std=0.5, datasets=("mnist", "mnist-sample")),
    )
}


class Classifier(nn.Module):
    """A network with everything around it that serving needs: raw pixels in, probabilities out."""

    def __init__(self, network: Network, body: nn.Module) -> None:
        super().__init__()
        self.body = body
        # (x/255 − mean)/std as one multiplication and one addition.
        self.scale = 1 / (255 * network.std)
        self.shift = -network.mean / network.std

    def prepare(self, images: Tensor) -> Tensor:
        """Raw uint8 (N, H, W, C) to scaled float32 (N, C, H, W)."""
        return images.permute(0, 3, 1, 2).to(torch.float32) * self.scale + self.shift

    def forward(self, images: Tensor) -> Tensor:
        """Raw uint8 (N, H, W, C) to probabilities float32 (N, classes)."""
        return torch.softmax(self.body(self.prepare(images)), dim=1)
