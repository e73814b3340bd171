"""Images as a model's input: decoded within limits, and fitted to the model's size and channels.

Owns the file formats, the limit on pixels, and the ways to fit an image, which proto/classifier.proto describes. Not
here: models and calls (classification.py).
"""

import io
from enum import Enum

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
# Checked before decoding, because a file of kilobytes can decode to gigabytes of pixels.
MAX_PIXELS = 2**24
Image.MAX_IMAGE_PIXELS = None  # turns off Pillow's own limit; MAX_PIXELS replaces it
# MNIST's proportions: the longer side of a digit is 20 of 28 pixels, and its centre of mass is in the middle.
DIGIT_SHARE = 20 / 28
MODES = {1: "L", 3: "RGB", 4: "RGBA"}


class BadImage(Exception):
    """The image cannot be used; the message says what was expected and what came."""


class Fit(Enum):
    """How to fit an image to the model's input, as in proto/classifier.proto."""

    AUTO = 0
    RESIZE = 1
    NONE = 2


def decode(data: bytes) -> Image.Image:
    """The image in a file's bytes, rotated as its EXIF orientation says.

    Raises:
        BadImage: the file has none of the formats, is damaged, or has too many pixels.
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _check_size(*image.size)
            image.load()
            return ImageOps.exif_transpose(image)
    except UnidentifiedImageError as error:
        raise BadImage(f"expected a {', '.join(FORMATS[:-1])} or {FORMATS[-1]} file, got {_describe(data)}") from error
    except BadImage:
        raise
    except Exception as error:  # Pillow's decoders raise many types for damaged files
        raise BadImage(f"the file is damaged: {error}") from error


def from_pixels(pixels: bytes, width: int, height: int, channels: int) -> Image.Image:
    """The image of raw pixels, row by row, one byte a channel.

    Raises:
        BadImage: a size is invalid or too large, or the sizes do not match the number of bytes.
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
        raise BadImage(f"an image may have at most {MAX_PIXELS} pixels, this one has {width} × {height}")


def _describe(data: bytes) -> str:
    return f"{len(data)} bytes that begin with {data[:8]!r}" if data else "nothing"


def fit(image: Image.Image, shape: tuple[int, int, int], method: Fit) -> NDArray[np.uint8]:
    """The image as an array of `shape`: (height, width, channels), with 1 or 3 channels.

    Raises:
        BadImage: the image is blank, or does not have the shape and `method` is NONE.
    """
    height, width, channels = shape
    mode = MODES[channels]
    if method is Fit.NONE:
        if image.size != (width, height) or image.mode != mode:
            raise BadImage(
                f"expected {width} × {height} pixels, {mode}, got {image.width} × {image.height}, {image.mode}; "
                "another fit would convert it"
            )
        return np.asarray(image).reshape(shape)
    if image.mode.startswith("I;16") or image.mode == "I":  # 16-bit grey: Pillow would keep the low byte
        image = Image.fromarray((np.asarray(image).clip(0, 65_535) >> 8).astype(np.uint8))
    if image.has_transparency_data:  # put transparent images on white
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    image = image.convert(mode)
    if method is Fit.AUTO and channels == 1:
        return _fit_drawing(np.asarray(image), height, width)
    if image.size != (width, height):
        shrinks = image.width > width and image.height > height
        image = ImageOps.fit(image, (width, height), Image.Resampling.BOX if shrinks else Image.Resampling.BICUBIC)
    return np.asarray(image).reshape(shape)


def _fit_drawing(grey: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """A drawing in the form of MNIST's digits: light on dark, (height, width, 1).

    A drawing with a light border is inverted. One of another size is then cropped to its ink, scaled and centred.
    """
    border = np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])
    if np.median(border) > 127:
        grey = 255 - grey
    if grey.shape == (height, width):
        return grey[:, :, None]
    ink = np.argwhere(grey > 0.3 * grey.max())
    if not len(ink) or not grey.max():
        raise BadImage("the image is blank")
    (top, left), (bottom, right) = ink.min(0), ink.max(0) + 1
    scale = DIGIT_SHARE * min(height / (bottom - top), width / (right - left))
    size = max(1, round((right - left) * scale)), max(1, round((bottom - top) * scale))
    digit = np.asarray(Image.fromarray(grey[top:bottom, left:right]).resize(size, Image.Resampling.BOX))
    canvas = np.zeros((height, width, 1), np.uint8)
    mass = digit.sum() or 1
    y = round(height / 2 - (digit.sum(1) * np.arange(digit.shape[0])).sum() / mass - 0.5)
    x = round(width / 2 - (digit.sum(0) * np.arange(digit.shape[1])).sum() / mass - 0.5)
    y, x = min(max(y, 0), height - digit.shape[0]), min(max(x, 0), width - digit.shape[1])
    canvas[y : y + digit.shape[0], x : x + digit.shape[1], 0] = digit
    return canvas
