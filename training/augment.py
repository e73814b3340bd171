"""Images that might have been: each one of a batch turned, scaled, moved and mirrored a little, at random.

Owns: which changes leave a label true, by data set, and how they are made: one affine map an image, all in one call.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

# How many random numbers an image takes.
NUMBERS = 5


@dataclass(frozen=True)
class Augmentation:
    """How far an image may be changed at most."""

    degrees: float = 0.0  # turned, either way
    zoom: float = 0.0  # larger or smaller, as a share
    shift: float = 0.0  # pixels, each way
    mirror: bool = False
    border: str = "zeros"  # what comes in from outside: zeros, the background; or reflection

    def __call__(self, images: Tensor, numbers: Tensor) -> Tensor:
        """Raw images (N, H, W, C) changed by `numbers` (N, NUMBERS) from [0, 1); float32, from 0 to 255."""
        if self == NONE:
            return images
        height, width = images.shape[1:3]
        signed = 2 * numbers - 1
        angle, zoom = math.radians(self.degrees) * signed[:, 0], 1 + self.zoom * signed[:, 1]
        cos, sin = torch.cos(angle) * zoom, torch.sin(angle) * zoom
        side = torch.where(numbers[:, 4] < 0.5, -1.0, 1.0) if self.mirror else 1.0
        # Whole pixels where nothing else is done, so that nothing is blurred.
        moved = self.shift * signed[:, 2:4] if self.degrees or self.zoom else _whole(numbers[:, 2:4], self.shift)
        maps = torch.stack(  # where a pixel of the result comes from, in torch's units of half an image
            [side * cos, -sin, 2 * moved[:, 0] / width, side * sin, cos, 2 * moved[:, 1] / height], dim=1
        ).reshape(-1, 3)
        grid = (maps @ _base(height, width, images.device)).reshape(
            -1, 2, height, width
        )  # one product, not N small ones
        return F.grid_sample(
            images.permute(0, 3, 1, 2).to(torch.float32),
            grid.permute(0, 2, 3, 1),
            padding_mode=self.border,
            align_corners=False,
        ).permute(0, 2, 3, 1)


NONE = Augmentation()
DIGITS = Augmentation(degrees=10, zoom=0.1, shift=2)
PHOTOS = Augmentation(shift=3, mirror=True, border="reflection")
CLOTHES = Augmentation(shift=2, mirror=True)
OTHERS = Augmentation(shift=2)  # of images of which nothing is known but that they show the same if moved


def augmentation_for(dataset: str) -> Augmentation:
    """What leaves the labels of that data set true."""
    return {"mnist": DIGITS, "mnist-sample": DIGITS, "cifar10": PHOTOS, "fashion-mnist": CLOTHES}.get(dataset, OTHERS)


def _whole(numbers: Tensor, limit: float) -> Tensor:
    return torch.floor(numbers * (2 * limit + 1)) - limit


def _base(height: int, width: int, device: torch.device) -> Tensor:
    """(3, H·W): x, y and 1 of every pixel's middle, from −1 to 1."""
    y, x = torch.meshgrid(
        (2 * torch.arange(height, device=device) + 1) / height - 1,
        (2 * torch.arange(width, device=device) + 1) / width - 1,
        indexing="ij",
    )
    return torch.stack([x, y, torch.ones_like(x)]).reshape(3, -1)
