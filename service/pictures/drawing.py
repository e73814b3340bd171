"""Finds the drawing on a page, and brings it into the form of MNIST's digits: light on dark, scaled and centred.

Not here: decoding (files.py), colour and transparency (fits.py).
Source of the form: https://yann.lecun.org/exdb/mnist (a digit fits a box of 20 × 20 pixels, and its centre of mass is
in the middle of 28 × 28).
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from service.pictures.files import BadPicture
from service.pictures.fit import DIGIT_SHARE

# A larger picture is reduced until its shorter side has at least this number of pixels.
WORKING_SIDE = 512


def fit_drawing(picture: Image.Image, size: tuple[int, int], share: float = DIGIT_SHARE) -> NDArray[np.uint8]:
    """A grey picture (mode L) as an image (height, width) of `size`.

    Raises:
        BadPicture: there is no drawing.
    """
    grey, (height, width) = np.asarray(picture), size
    border = np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])
    if np.median(border) > 127:
        grey = 255 - grey
    if grey.shape == (height, width):
        return grey
    ink = np.argwhere(grey > 0.3 * grey.max())
    if not len(ink) or not grey.max():
        raise BadPicture("no drawing found")
    (top, left), (bottom, right) = ink.min(0), ink.max(0) + 1
    return centred(grey[top:bottom, left:right], size, share)


def centred(drawing: NDArray[np.uint8], size: tuple[int, int], share: float) -> NDArray[np.uint8]:
    """The drawing, light on dark and cropped, scaled to `share` of the image and centred by its centre of mass."""
    height, width = size
    scale = share * min(height / drawing.shape[0], width / drawing.shape[1])
    scaled_size = max(1, round(drawing.shape[1] * scale)), max(1, round(drawing.shape[0] * scale))
    scaled = np.asarray(Image.fromarray(drawing).resize(scaled_size, Image.Resampling.BOX))
    image = np.zeros((height, width), np.uint8)
    mass = scaled.sum() or 1
    y = round(height / 2 - (scaled.sum(1) * np.arange(scaled.shape[0])).sum() / mass - 0.5)
    x = round(width / 2 - (scaled.sum(0) * np.arange(scaled.shape[1])).sum() / mass - 0.5)
    y, x = min(max(y, 0), height - scaled.shape[0]), min(max(x, 0), width - scaled.shape[1])
    image[y : y + scaled.shape[0], x : x + scaled.shape[1]] = scaled
    return image
