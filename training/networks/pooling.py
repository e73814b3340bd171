"""Pooling over square windows, in nine kinds.

    max         the largest value of the window
    min         the smallest
    avg         the mean
    lp          the Euclidean norm
    mixed       α·max + (1−α)·avg, one learned α per layer: https://arxiv.org/abs/1509.08985
    avg-topk    the mean of the 2 largest values: Avg-TopK, https://doi.org/10.1016/j.eswa.2023.119892
    stride      no pooling: a convolution with the window's size and stride, which learns its weights:
                https://arxiv.org/abs/1412.6806
    global      as max, but the last pooling layer takes the mean of each feature map
    global-max  as max, but the last pooling layer takes the largest value of each feature map

The output size is ⌊(n − f) / s⌋ + 1 for windows of f×f with stride s: rows and columns at the end that no window
reaches are dropped. Windows overlap if the stride is smaller than they are.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.networks.sizes import output_size

KINDS = ("max", "min", "avg", "lp", "mixed", "avg-topk", "stride", "global", "global-max")
# Of `avg-topk`. The source compares several; 2 is the middle between max (1) and average pooling (4) of a 2×2 window.
TOP_K = 2


class WindowPool(nn.Module):
    """A pooling layer over windows of `window`×`window` with stride `stride`."""

    def __init__(self, window: int = 2, stride: int = 2) -> None:
        super().__init__()
        self.window, self.stride = window, stride

    def extra_repr(self) -> str:
        return f"window={self.window}, stride={self.stride}"


class MinPool(WindowPool):
    """The smallest value of each window."""

    def forward(self, x: Tensor) -> Tensor:
        return -F.max_pool2d(-x, self.window, self.stride)


class LpPool(WindowPool):
    """The Euclidean norm of each window: √(a² + b² + …)."""

    def forward(self, x: Tensor) -> Tensor:
        # torch.nn.LPPool2d has no gradient if all values are 0, which is common after ReLU.
        return torch.sqrt(self.window**2 * F.avg_pool2d(x * x, self.window, self.stride) + 1e-12)


class MixedPool(WindowPool):
    """A learned weighted mean of max pooling and average pooling; both weights start at one half."""

    def __init__(self, window: int = 2, stride: int = 2) -> None:
        super().__init__(window, stride)
        self.weight = nn.Parameter(torch.tensor(0.5))

    def forward(self, x: Tensor) -> Tensor:
        largest, mean = F.max_pool2d(x, self.window, self.stride), F.avg_pool2d(x, self.window, self.stride)
        return self.weight * largest + (1 - self.weight) * mean


class AvgTopKPool(WindowPool):
    """The mean of the `k` largest values of each window, or of all if it has fewer."""

    def __init__(self, window: int = 2, stride: int = 2, *, k: int = TOP_K) -> None:
        super().__init__(window, stride)
        self.k = min(k, window**2)

    def forward(self, x: Tensor) -> Tensor:
        windows = x.unfold(2, self.window, self.stride).unfold(3, self.window, self.stride)  # (N, C, H, W, f, f)
        largest: Tensor = windows.flatten(4).topk(self.k, dim=4).values
        return largest.mean(4)


class GlobalMaxPool(nn.Module):
    """The largest value of each feature map: (N, C, H, W) to (N, C, 1, 1)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.amax((2, 3), keepdim=True)  # nn.AdaptiveMaxPool2d has no deterministic gradient on a GPU


LAYERS: dict[str, type[nn.Module]] = {
    "max": nn.MaxPool2d,
    "min": MinPool,
    "avg": nn.AvgPool2d,
    "lp": LpPool,
    "mixed": MixedPool,
    "avg-topk": AvgTopKPool,
    "global": nn.MaxPool2d,
    "global-max": nn.MaxPool2d,
}


@dataclass(frozen=True)
class Pooling:
    """A kind of pooling, its window's side and its stride; a network takes its pooling layers from it."""

    kind: str = "max"
    window: int = 2
    stride: int = 2

    def layer(self, channels: int) -> nn.Module:
        """A pooling layer between two convolutions, for maps of this number of channels."""
        if self.kind == "stride":
            return nn.Conv2d(channels, channels, self.window, self.stride)
        return LAYERS[self.kind](self.window, self.stride)

    def last_layer(self, channels: int) -> nn.Module:
        """The pooling layer before the fully connected layers."""
        match self.kind:
            case "global":
                return nn.AdaptiveAvgPool2d(1)
            case "global-max":
                return GlobalMaxPool()
        return self.layer(channels)

    def output_size(self, size: int) -> int:
        """The side of a map after `layer`.

        Raises:
            ImpossibleSize: the map is smaller than the window.
        """
        return output_size(size, window=self.window, stride=self.stride)

    def last_output_size(self, size: int) -> int:
        """The side of a map after `last_layer`.

        Raises:
            ImpossibleSize: the map is smaller than the window.
        """
        return 1 if self.kind in ("global", "global-max") else self.output_size(size)


MAX_POOLING = Pooling()
