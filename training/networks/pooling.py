"""Pooling over windows of 2×2 with stride 2, in six kinds.

    max       the largest value of the window
    avg       the mean
    lp        the Euclidean norm
    mixed     α·max + (1−α)·avg, one learned α per layer: https://arxiv.org/abs/1509.08985
    avg-topk  the mean of the 2 largest values: Avg-TopK, https://doi.org/10.1016/j.eswa.2023.119892
    global    as max, but the last pooling layer takes the mean of each feature map

The output size is ⌊(n − 2) / 2⌋ + 1: an odd last row or column is dropped.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

KINDS = ("max", "avg", "lp", "mixed", "avg-topk", "global")


class LpPool(nn.Module):
    """√(a² + b² + c² + d²) of each window."""

    def forward(self, x: Tensor) -> Tensor:
        # torch.nn.LPPool2d has no gradient if all four values are 0, which is common after ReLU.
        return torch.sqrt(4 * F.avg_pool2d(x * x, 2) + 1e-12)


class MixedPool(nn.Module):
    """A learned weighted mean of max pooling and average pooling; both weights start at one half."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.5))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * F.max_pool2d(x, 2) + (1 - self.weight) * F.avg_pool2d(x, 2)


class AvgTopKPool(nn.Module):
    """The mean of the `k` largest of each window's four values."""

    def __init__(self, k: int = 2) -> None:
        super().__init__()
        self.k = k

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2] // 2, x.shape[3] // 2
        windows = x[:, :, : 2 * height, : 2 * width].unflatten(3, (width, 2)).unflatten(2, (height, 2))
        four = windows.transpose(3, 4).flatten(4)  # (N, C, H, W, 4)
        largest: Tensor = four.topk(self.k, dim=4).values
        return largest.mean(4)


def _max() -> nn.Module:
    return nn.MaxPool2d(2)


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "max": _max,
    "avg": lambda: nn.AvgPool2d(2),
    "lp": LpPool,
    "mixed": MixedPool,
    "avg-topk": AvgTopKPool,
    "global": _max,
}


@dataclass(frozen=True)
class Pooling:
    """A kind of pooling; a network takes its pooling layers from it."""

    kind: str

    def layer(self) -> nn.Module:
        """A pooling layer between two convolutions."""
        return LAYERS[self.kind]()

    def last_layer(self) -> nn.Module:
        """The pooling layer before the fully connected layers."""
        return nn.AdaptiveAvgPool2d(1) if self.kind == "global" else LAYERS[self.kind]()

    def output_area(self, side: int) -> int:
        """Values per feature map after the last pooling layer; `side` is the map's side after pooling over windows."""
        return 1 if self.kind == "global" else side * side


MAX_POOLING = Pooling("max")
