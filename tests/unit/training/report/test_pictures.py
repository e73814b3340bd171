"""Images on the page are small, and small images are kept pixel for pixel."""

import base64
import io

import numpy as np
import torch
from PIL import Image

from training.report.pictures import MAX_MAP_SIDE, MAX_SIDE, data_url, filter_image, grey_image


def decode(url: str) -> Image.Image:
    """The image of a data URL."""
    return Image.open(io.BytesIO(base64.b64decode(url.partition("base64,")[2])))


def test_a_small_image_is_kept_pixel_for_pixel() -> None:
    for channels in (1, 3):
        image = torch.randint(0, 256, (28, 20, channels), dtype=torch.uint8)
        np.testing.assert_array_equal(np.asarray(decode(data_url(image))).reshape(image.shape), image.numpy())


def test_a_large_image_is_reduced_in_its_proportions() -> None:
    picture = decode(data_url(torch.zeros(224, 448, 3, dtype=torch.uint8)))
    assert picture.size == (MAX_SIDE, MAX_SIDE // 2) and picture.format == "JPEG"
    assert decode(grey_image(torch.rand(200, 100))).size == (MAX_MAP_SIDE // 2, MAX_MAP_SIDE)


def test_images_of_two_or_four_channels_are_shown_in_grey() -> None:
    assert decode(data_url(torch.full((5, 5, 4), 100, dtype=torch.uint8))).getpixel((0, 0)) == 100


def test_a_filter_of_three_channels_is_shown_in_colour_and_any_other_in_grey() -> None:
    assert [decode(filter_image(torch.randn(channels, 3, 3))).mode for channels in (1, 2, 3, 64)] == [
        "L",
        "L",
        "RGB",
        "L",
    ]


def test_values_that_are_constant_or_not_finite_are_drawn_all_the_same() -> None:
    for values in (torch.zeros(3, 3), torch.full((3, 3), torch.nan)):
        assert decode(grey_image(values)).getextrema() == (0, 0)
