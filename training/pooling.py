"""Pooling over windows of 2×2 with stride 2, in six kinds: what becomes of the four numbers of a window.

    max       the largest
    avg       their mean
    lp        their Euclidean norm
    mixed     α·max + (1−α)·avg, α learned, a number a layer: https://arxiv.org/abs/1509.08985
    avg-topk  the mean of the 2 largest: Avg-TopK, https://doi.org/10.1016/j.eswa.2023.119892
    global    as max, but the last pooling layer takes the mean of a whole feature map

The size of the output is ⌊(n − 2) / 2⌋ + 1: an odd row or column at the end is left out.
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
        # torch's LPPool2d has no gradient where all four are 0, as rectified features often are.
        return torch.sqrt(4 * F.avg_pool2d(x * x, 2) + 1e-12)


class MixedPool(nn.Module):
    """A learned weighting of maximum and mean, which begins half and half."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.5))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * F.max_pool2d(x, 2) + (1 - self.weight) * F.avg_pool2d(x, 2)


class AvgTopKPool(nn.Module):
    """The mean of the `k` largest of each window's four."""

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
    """A kind of pooling, as the networks ask for it."""

    kind: str

    def between(self) -> nn.Module:
        """The layer between two convolutions."""
        return LAYERS[self.kind]()

    def last(self) -> nn.Module:
        """The layer before the fully connected ones."""
        return nn.AdaptiveAvgPool2d(1) if self.kind == "global" else LAYERS[self.kind]()

    def area(self, side: int) -> int:
        """How many values a feature map has after the last layer, if a window's pooling makes it `side` wide."""
        return 1 if self.kind == "global" else side * side


MAX = Pooling("max")
