"""One form for every picture: opaque, 8 bits a channel, and of bounded size.

Owns the conversion to mode L or RGB, and the reduction of large pictures. Not here: decoding (files.py).

An ICC profile is ignored: pixels count as sRGB, in training as in the service.
"""

import numpy as np
from PIL import Image

# A picture's longer side is reduced to fewer than twice this number of its shortest side allowed.
MAX_ASPECT = 8
# Pictures are converted in strips of about this number of pixels, so that a large one is never held twice.
STRIP_PIXELS = 2**18


class UnknownMode(ValueError):
    """No conversion to 8 bits a channel is known; the message says what came."""


def opaque(picture: Image.Image) -> Image.Image:
    """The picture in mode L or RGB, with transparency on white.

    Of 16 bits the upper 8 count. CMYK, YCbCr, LAB and HSV become RGB as Pillow converts them.

    Raises:
        UnknownMode: the picture has 32 bits a channel, and nothing says which value is white.
    """
    if picture.mode in ("I", "F"):
        raise UnknownMode("expected 8 or 16 bits a channel, got 32: save it with 8")
    if picture.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
    if picture.mode in ("L", "RGB"):
        return picture
    return picture.convert("L" if picture.mode == "1" else "RGB")


def reduced(picture: Image.Image, min_side: int) -> Image.Image:
    """The picture, opaque, with its shorter side reduced by a whole factor to at least `min_side`, if it is longer.

    Each pixel is the mean of those that it replaces. A picture longer than MAX_ASPECT times its shorter side may get a
    shorter side below `min_side`, so that its longer one is bounded as well.
    """
    factor = reduction(picture.size, min_side)
    if picture.mode in ("L", "RGB") and not picture.has_transparency_data:
        return picture.reduce(factor) if factor > 1 else picture
    width, height = picture.size
    rows = max(1, STRIP_PIXELS // (width * factor)) * factor
    result: Image.Image | None = None
    for top in range(0, height, rows):
        strip = opaque(picture.crop((0, top, width, min(top + rows, height))))
        if result is None:
            result = Image.new(strip.mode, (-(-width // factor), -(-height // factor)))
        result.paste(strip.reduce(factor) if factor > 1 else strip, (0, top // factor))
    assert result is not None
    return result


def reduction(size: tuple[int, int], min_side: int) -> int:
    """The whole factor by which reduced() divides both sides."""
    return max(1, min(size) // min_side, max(size) // (MAX_ASPECT * min_side))
