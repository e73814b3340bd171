"""Images as users take them."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def big_scan(digit: NDArray[np.uint8]) -> Image.Image:
    """The digit (H, W, 1) as a user would photograph it: large, dark on light, off centre."""
    ink = Image.fromarray(255 - digit[:, :, 0]).resize((140, 140), Image.Resampling.BICUBIC)
    page = Image.new("RGB", (400, 300), (250, 250, 245))
    page.paste(ink.convert("RGB"), (210, 30))
    return page
