"""Images as data URLs: small ones as PNG, pixel for pixel, larger ones at reduced size, so that the page stays small.

Not here: charts (charts.py), which images a section shows (sections/).
"""

import base64
import io

import torch
from PIL import Image
from torch import Tensor

# Longest side of an image on the page, in pixels. Larger ones are reduced, and written as JPEG if they are in colour.
MAX_SIDE = 96
# The same for feature maps, which are many.
MAX_MAP_SIDE = 48
JPEG_QUALITY = 85


def data_url(image: Tensor, *, max_side: int = MAX_SIDE) -> str:
    """An image uint8 (H, W, C) as a data URL; with neither 1 nor 3 channels, the mean of all in grey."""
    pixels = image if image.shape[2] in (1, 3) else image.float().mean(2, keepdim=True).round().to(torch.uint8)
    picture = Image.fromarray((pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).contiguous().numpy())
    reduced = max(picture.size) > max_side
    if reduced:
        picture.thumbnail((max_side, max_side))
    kind = "jpeg" if reduced and picture.mode == "RGB" else "png"
    buffer = io.BytesIO()
    picture.save(buffer, kind, optimize=True, quality=JPEG_QUALITY)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def grey_image(values: Tensor) -> str:
    """Values (H, W) as a grey image: the smallest is black, the largest white."""
    return data_url(_to_bytes(values)[:, :, None], max_side=MAX_MAP_SIDE)


def filter_image(weights: Tensor) -> str:
    """The weights (C, H, W) of a filter: in colour if C is 3, else the mean over the channels."""
    if weights.shape[0] != 3:
        return grey_image(weights.mean(0))
    return data_url(_to_bytes(weights).permute(1, 2, 0), max_side=MAX_MAP_SIDE)


def _to_bytes(values: Tensor) -> Tensor:
    """Values as uint8 of the same shape: the smallest is 0, the largest 255."""
    values = values.detach().float().nan_to_num()
    low, high = values.min(), values.max()
    return ((values - low) / (high - low).clamp_min(1e-12) * 255).round().to(torch.uint8)
