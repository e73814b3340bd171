"""Random augmentation of a batch of images: rotate, zoom, shift, flip.

Each data set has the changes that leave its labels true. One affine map per image, and one call for the whole batch.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

# For rotation, zoom, horizontal shift, vertical shift and flip.
RANDOM_NUMBERS_PER_IMAGE = 5
FLIP_COLUMN = 4  # below 0.5, the image is flipped


@dataclass(frozen=True)
class Augmentation:
    """The largest change of each kind."""

    degrees: float = 0.0  # of rotation, in both directions
    zoom: float = 0.0  # larger or smaller, as a fraction
    shift: float = 0.0  # pixels, in each direction
    flip: bool = False  # horizontally
    alternate: bool = False  # flip half of the images in even epochs and the other half in odd ones, not at random
    padding_mode: str = "zeros"  # of grid_sample, for pixels from outside the image: zeros or reflection

    def __call__(self, images: Tensor, numbers: Tensor) -> Tensor:
        """Augment raw images (N, H, W, C); `numbers` (N, RANDOM_NUMBERS_PER_IMAGE) from [0, 1) choose the changes.

        Returns float32 (N, H, W, C) from 0 to 255; NO_AUGMENTATION returns the images as they are.
        """
        if self == NO_AUGMENTATION:
            return images
        height, width = images.shape[1:3]
        signed = 2 * numbers - 1
        angle, zoom = math.radians(self.degrees) * signed[:, 0], 1 + self.zoom * signed[:, 1]
        cos, sin = torch.cos(angle) * zoom, torch.sin(angle) * zoom
        side = torch.where(numbers[:, FLIP_COLUMN] < 0.5, -1.0, 1.0) if self.flip else 1.0
        # Without rotation or zoom, shift by whole pixels, which needs no interpolation and so does not blur.
        shift = self.shift * signed[:, 2:4] if self.degrees or self.zoom else _whole_pixels(numbers[:, 2:4], self.shift)
        maps = torch.stack(  # from a pixel of the result to its source, in grid_sample's units of half an image
            [side * cos, -sin, 2 * shift[:, 0] / width, side * sin, cos, 2 * shift[:, 1] / height], dim=1
        ).reshape(-1, 3)
        grid = (maps @ _pixel_centres(height, width, images.device)).reshape(
            -1, 2, height, width
        )  # one matrix product, not N small ones
        return F.grid_sample(
            images.permute(0, 3, 1, 2).to(torch.float32),
            grid.permute(0, 2, 3, 1),
            padding_mode=self.padding_mode,
            align_corners=False,
        ).permute(0, 2, 3, 1)


NO_AUGMENTATION = Augmentation()
DIGIT_AUGMENTATION = Augmentation(degrees=10, zoom=0.1, shift=2)
PHOTO_AUGMENTATION = Augmentation(shift=3, flip=True, padding_mode="reflection")
CLOTHING_AUGMENTATION = Augmentation(shift=2, flip=True)
MIRROR_AUGMENTATION = Augmentation(  # for folders whose labels a mirror image leaves true
    shift=2, flip=True, padding_mode="reflection"
)
DEFAULT_AUGMENTATION = Augmentation(shift=2)  # for images of unknown content, which may not be rotated or flipped

# By the names that a user chooses from; `auto` is that of the data set.
AUTO = "auto"
AUGMENTATIONS: Mapping[str, Augmentation] = {
    "off": NO_AUGMENTATION,
    "digits": DIGIT_AUGMENTATION,
    "photos": PHOTO_AUGMENTATION,
    "clothing": CLOTHING_AUGMENTATION,
    "shift": DEFAULT_AUGMENTATION,
    "mirror": MIRROR_AUGMENTATION,
}
OF_DATASETS = {"mnist": "digits", "mnist-sample": "digits", "cifar10": "photos", "fashion-mnist": "clothing"}


def augmentation_for(dataset: str, choice: str = AUTO) -> Augmentation:
    """The augmentation of this name; that of `auto` leaves the data set's labels true.

    Raises:
        KeyError: there is none of this name.
    """
    return AUGMENTATIONS[OF_DATASETS.get(dataset, "shift") if choice == AUTO else choice]


def flipped_first(images: int, seed: int) -> Tensor:
    """Which of the images (N,) are flipped in the epochs 0, 2, 4 …; a random half, fixed by the seed."""
    order = torch.randperm(images, generator=torch.Generator().manual_seed(seed))
    return order < images // 2


def with_alternating_flips(numbers: Tensor, is_flipped_first: Tensor, epoch: int) -> Tensor:
    """The numbers of a batch (B, RANDOM_NUMBERS_PER_IMAGE), so that each image is flipped in every other epoch.

    Two epochs then show each image both ways, where chance shows half of them the same way twice.
    `is_flipped_first` (B,) are the rows of flipped_first() of the batch; `epoch` counts from 0.
    Source: https://arxiv.org/abs/2404.00498
    """
    numbers = numbers.clone()
    is_flipped = is_flipped_first if epoch % 2 == 0 else ~is_flipped_first
    numbers[:, FLIP_COLUMN] = torch.where(is_flipped, 0.25, 0.75)
    return numbers


def _whole_pixels(numbers: Tensor, limit: float) -> Tensor:
    return torch.floor(numbers * (2 * limit + 1)) - limit


def _pixel_centres(height: int, width: int, device: torch.device) -> Tensor:
    """(3, H·W): x, y and 1 for the centre of every pixel, from −1 to 1."""
    y, x = torch.meshgrid(
        (2 * torch.arange(height, device=device) + 1) / height - 1,
        (2 * torch.arange(width, device=device) + 1) / width - 1,
        indexing="ij",
    )
    return torch.stack([x, y, torch.ones_like(x)]).reshape(3, -1)
