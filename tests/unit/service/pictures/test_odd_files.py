"""Files of every mode, structure and format give the pixels that they show."""

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from service.pictures.files import decode
from service.pictures.fit import RESIZE, Fit
from service.pictures.fitting import fit_file
from tests.support.pictures import OddFile, odd_files

FILES = odd_files()


@pytest.mark.parametrize("name", FILES)
def test_a_file_gives_the_pixels_that_it_shows(name: str) -> None:
    file = FILES[name]
    height, width, _ = file.shows.shape
    image = np.asarray(decode(file.data, max(height, width)).convert("RGB"))
    assert image.shape == file.shows.shape
    assert difference(image, file.shows) <= file.tolerance


@pytest.mark.parametrize("name", FILES)
def test_a_reduced_file_gives_the_same_picture_smaller(name: str) -> None:
    file = FILES[name]
    shape = (6, 6, 3)
    fitted = fit_file(file.data, shape, Fit(RESIZE))
    shown = np.asarray(square(file).resize((6, 6), Image.Resampling.BOX))
    corners = np.ix_((0, 1, 4, 5), (0, 1, 4, 5))
    assert difference(fitted[corners], shown[corners]) <= file.tolerance + 4


def difference(image: NDArray[np.uint8], shown: NDArray[np.uint8]) -> float:
    """The mean difference of the pixels, in levels of 256."""
    return float(np.abs(image.astype(int) - shown.astype(int)).mean())


def square(file: OddFile) -> Image.Image:
    """The middle of the picture that the file shows."""
    picture = Image.fromarray(file.shows)
    side, (width, height) = min(picture.size), picture.size
    left, top = (width - side) // 2, (height - side) // 2
    return picture.crop((left, top, left + side, top + side))
