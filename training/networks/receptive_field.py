"""Receptive fields: the part of an image that one value of a layer's output depends on.

They are found by trial, for a network of any shape. If one column of the image is not a number, then every value that
depends on it is none either. The receptive field of a value is as wide as the columns that reach it lie apart; the
layer's is that of the value with the widest, and it ends at the image's border.

For a chain of layers this agrees with r = 1 + Σ (f − 1)·j, where j is the product of the strides before each window of
f values.
"""

import copy

import torch
from torch import Tensor, nn

from training.networks.hooks import watch_layers

# Columns that are tried at a time, which bounds memory.
CHUNK = 16
# Of an image. A network runs once for each row and column, in float64: for larger images, that takes minutes.
MAX_SIDE = 64


@torch.inference_mode()
def receptive_fields(body: nn.Module, image: Tensor) -> list[str]:
    """The receptive field (height×width) of each layer, in the order of their calls.

    `image` is a normalized image (1, C, H, W). The list is empty for a larger image than MAX_SIDE, and for a network
    that does not run in float64.
    """
    if max(image.shape[2:]) > MAX_SIDE:
        return []
    try:
        # float64, because the fast convolutions of float32 may mix neighbouring columns.
        trial = copy.deepcopy(body).double().eval()
        heights, widths = (_extents(trial, image.double(), axis) for axis in (2, 3))
    except Exception:  # noqa: BLE001 # whatever a network of unknown shape raises; the table does without this column
        return []
    return [f"{height}×{width}" if height else "" for height, width in zip(heights, widths, strict=True)]


def _extents(body: nn.Module, image: Tensor, axis: int) -> list[int]:
    """The extent of each layer's receptive field along an axis; 0 if the layer does not depend on the image."""
    size = image.shape[axis]
    first: list[Tensor] = []  # by layer: of each value of its output, the first row or column that reaches it
    last: list[Tensor] = []
    for start in range(0, size, CHUNK):
        lines = torch.arange(start, min(start + CHUNK, size))
        images = image.repeat(len(lines), 1, 1, 1)
        images.movedim(axis, 1)[torch.arange(len(lines)), lines] = torch.nan
        for index, reached in enumerate(_reached(body, images)):  # (lines, values)
            if index == len(first):
                first.append(torch.full(reached.shape[1:], size))
                last.append(torch.full(reached.shape[1:], -1))
            numbers = lines[:, None].expand_as(reached)
            first[index] = torch.minimum(first[index], torch.where(reached, numbers, size).amin(0))
            last[index] = torch.maximum(last[index], torch.where(reached, numbers, -1).amax(0))
    return [max(0, int((end - begin).max()) + 1) for begin, end in zip(first, last, strict=True)]


def _reached(body: nn.Module, images: Tensor) -> list[Tensor]:
    """Which values of each layer's output are not a number: bool (N, values)."""
    reached: list[Tensor] = []

    def watch(_: str, __: nn.Module, ___: Tensor | None, output: Tensor | None) -> None:
        if output is None or output.ndim < 2 or len(output) != len(images):
            output = images.new_zeros(len(images), 1)
        reached.append(output.isnan().flatten(1))

    with watch_layers(body, watch):
        body(images)
    return reached
