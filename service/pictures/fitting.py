"""Fits a picture to a model's input, as a Fit says.

Not here: decoding (files.py), finding a drawing (drawing.py).
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from service.pictures.drawing import WORKING_SIDE, fit_drawing
from service.pictures.files import MODES, BadPicture, decode
from service.pictures.fit import DRAWING, NONE, Fit
from service.pictures.opaque import UnknownMode, reduced

# Pictures are reduced before they are fitted, down to this number of pixels for one of the input.
RESIZE_OVERSAMPLING = 2
# For enlarging as for shrinking, where Pillow widens the filter, so that no pixel is skipped (antialiasing).
RESIZE_FILTER = Image.Resampling.BICUBIC


def fit_file(data: bytes, shape: tuple[int, int, int], fit: Fit) -> NDArray[np.uint8]:
    """The picture in a file's bytes as an image of `shape`: (height, width, channels), with 1 or 3 channels.

    Raises:
        BadPicture: as decode() and fit_picture().
    """
    return fit_picture(decode(data, min_side(shape, fit)), shape, fit)


def min_side(shape: tuple[int, int, int], fit: Fit) -> int | None:
    """The shorter side to which a picture is reduced before it is fitted, in pixels; None if it must keep its size."""
    if fit.method == NONE:
        return None
    return WORKING_SIDE if fit.method == DRAWING else RESIZE_OVERSAMPLING * max(shape[:2])


def fit_picture(picture: Image.Image, shape: tuple[int, int, int], fit: Fit) -> NDArray[np.uint8]:
    """The picture as an image of `shape`: (height, width, channels), with 1 or 3 channels.

    Raises:
        BadPicture: the picture shows no drawing or several, or does not have the shape and the method is `none`.
    """
    height, width, channels = shape
    mode = MODES[channels]
    if fit.method == NONE:
        if picture.size != (width, height) or picture.mode != mode:
            raise BadPicture(
                f"expected {width} × {height} pixels, {mode}, got {picture.width} × {picture.height}, {picture.mode}; "
                "another fit would convert it"
            )
        return np.asarray(picture).reshape(shape)
    try:
        picture = reduced(picture, min_side(shape, fit) or 1)
    except UnknownMode as error:
        raise BadPicture(str(error)) from error
    if fit.method == DRAWING:
        image = fit_drawing(picture, (height, width), fit.share)
        return np.repeat(image[:, :, None], channels, axis=2)
    picture = picture.convert(mode)
    if picture.size != (width, height):
        picture = ImageOps.fit(picture, (width, height), RESIZE_FILTER)
    return np.asarray(picture).reshape(shape)
