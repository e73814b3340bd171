"""Pictures as a model's input: decoded within bounds, and made to fit.

Owns: which files are read and how large a picture may be, and what is done to one that is not as the model wants it
(the choices stand in proto/classifier.proto). Does not own: models, calls.
"""

import io
from enum import Enum

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
# Checked before decoding, for a file of some kilobytes can be one of gigabytes of pixels.
MAX_PIXELS = 2**24
Image.MAX_IMAGE_PIXELS = None  # Pillow's own check, of which the one here takes the place
# MNIST's own proportions: the digit's longer side in a field, centred by its mass.
DIGIT_SHARE = 20 / 28
MODES = {1: "L", 3: "RGB", 4: "RGBA"}


class BadImage(Exception):
    """The picture cannot be used; the message says what was expected and what came."""


class Fit(Enum):
    """How a picture is made to fit, as in proto/classifier.proto."""

    AUTO = 0
    RESIZE = 1
    NONE = 2


def decode(data: bytes) -> Image.Image:
    """The picture in a file's bytes, upright.

    Raises:
        BadImage: it is none of the formats, is damaged, or has too many pixels.
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _check_size(*image.size)
            image.load()
            return ImageOps.exif_transpose(image)
    except UnidentifiedImageError as error:
        raise BadImage(f"expected a {', '.join(FORMATS[:-1])} or {FORMATS[-1]} file, got {_show(data)}") from error
    except BadImage:
        raise
    except Exception as error:  # Pillow's decoders raise all kinds for damaged files
        raise BadImage(f"the file is damaged: {error}") from error


def from_pixels(pixels: bytes, width: int, height: int, channels: int) -> Image.Image:
    """The picture of raw pixels, one byte a channel.

    Raises:
        BadImage: the sizes are none, too large, or do not agree with the number of bytes.
    """
    if channels not in MODES:
        raise BadImage(f"channels expected 1, 3 or 4, got {channels}")
    if not (width and height):
        raise BadImage(f"width and height expected at least 1, got {width} × {height}")
    _check_size(width, height)
    if len(pixels) != width * height * channels:
        raise BadImage(f"pixels expected {width} × {height} × {channels} bytes, got {len(pixels)}")
    return Image.frombytes(MODES[channels], (width, height), pixels)


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise BadImage(f"a picture may have {MAX_PIXELS} pixels, this one has {width} × {height}")


def _show(data: bytes) -> str:
    return f"{len(data)} bytes that begin with {data[:8]!r}" if data else "nothing"


def fit(image: Image.Image, shape: tuple[int, int, int], how: Fit) -> NDArray[np.uint8]:
    """The picture as (height, width, channels) of that shape, channels being 1 or 3.

    Raises:
        BadImage: it is empty paper, or has to be fitted but must not be.
    """
    height, width, channels = shape
    mode = MODES[channels]
    if how is Fit.NONE:
        if image.size != (width, height) or image.mode != mode:
            raise BadImage(
                f"expected {width} × {height} pixels, {mode}, got {image.width} × {image.height}, {image.mode}; "
                "another fit would convert it"
            )
        return np.asarray(image).reshape(shape)
    if image.mode.startswith("I;16") or image.mode == "I":  # 16-bit grey, of which Pillow would keep the lowest byte
        image = Image.fromarray((np.asarray(image).clip(0, 65_535) >> 8).astype(np.uint8))
    if image.has_transparency_data:  # what is transparent is paper
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    image = image.convert(mode)
    if how is Fit.AUTO and channels == 1:
        return _drawing(np.asarray(image), height, width)
    if image.size != (width, height):
        shrinks = image.width > width and image.height > height
        image = ImageOps.fit(image, (width, height), Image.Resampling.BOX if shrinks else Image.Resampling.BICUBIC)
    return np.asarray(image).reshape(shape)


def _drawing(grey: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """A drawing as MNIST has it: light on dark, (height, width, 1).

    One that already has the size is only turned light on dark; any other is cropped to its ink, scaled and centred.
    """
    border = np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])
    if np.median(border) > 127:
        grey = 255 - grey
    if grey.shape == (height, width):
        return grey[:, :, None]
    ink = np.argwhere(grey > 0.3 * grey.max())
    if not len(ink) or not grey.max():
        raise BadImage("the picture is empty")
    (top, left), (bottom, right) = ink.min(0), ink.max(0) + 1
    scale = DIGIT_SHARE * min(height / (bottom - top), width / (right - left))
    size = max(1, round((right - left) * scale)), max(1, round((bottom - top) * scale))
    digit = np.asarray(Image.fromarray(grey[top:bottom, left:right]).resize(size, Image.Resampling.BOX))
    field = np.zeros((height, width, 1), np.uint8)
    mass = digit.sum() or 1
    y = round(height / 2 - (digit.sum(1) * np.arange(digit.shape[0])).sum() / mass - 0.5)
    x = round(width / 2 - (digit.sum(0) * np.arange(digit.shape[1])).sum() / mass - 0.5)
    y, x = min(max(y, 0), height - digit.shape[0]), min(max(x, 0), width - digit.shape[1])
    field[y : y + digit.shape[0], x : x + digit.shape[1], 0] = digit
    return field
