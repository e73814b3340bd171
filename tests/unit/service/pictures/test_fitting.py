"""Fitting pictures to a model's input."""

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from service.pictures.files import BadPicture, from_pixels
from service.pictures.fit import DRAWING, NONE, RESIZE, Fit
from service.pictures.fitting import fit_file, fit_picture
from tests.support.images import big_scan
from tests.support.pictures import encoded

TestImages = tuple[NDArray[np.uint8], NDArray[np.uint8]]
GREY, COLOUR = (28, 28, 1), (32, 32, 3)


def test_a_drawing_of_the_models_size_is_only_inverted_to_light_on_dark(test_images: TestImages) -> None:
    digit = test_images[0][0]
    np.testing.assert_array_equal(fit_picture(Image.fromarray(digit[:, :, 0]), GREY, Fit(DRAWING)), digit)
    np.testing.assert_array_equal(fit_picture(Image.fromarray(255 - digit[:, :, 0]), GREY, Fit(DRAWING)), digit)


def test_large_drawings_are_fitted_close_to_their_original_digits(test_images: TestImages) -> None:
    digits = test_images[0][:100]
    fitted = [fit_picture(big_scan(digit), GREY, Fit(DRAWING)) for digit in digits]
    correlations = [np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in zip(fitted, digits, strict=True)]
    assert np.mean(correlations) > 0.75


def test_transparency_becomes_white() -> None:
    image = Image.new("RGBA", (60, 60), (0, 0, 0, 0))
    image.paste((0, 0, 0, 255), (25, 10, 35, 50))
    fitted = fit_picture(image, GREY, Fit(DRAWING))
    assert fitted[14, 14, 0] == 255 and fitted[0, 0, 0] == 0


def test_a_blank_image_is_refused() -> None:
    with pytest.raises(BadPicture, match="no drawing found"):
        fit_picture(Image.new("L", (50, 50), 255), GREY, Fit(DRAWING))


def test_an_image_is_cropped_to_its_middle_and_keeps_its_proportions() -> None:
    image = Image.new("RGB", (96, 32), "red")
    image.paste((0, 0, 255), (32, 0, 64, 32))
    fitted = fit_picture(image, COLOUR, Fit(RESIZE))
    assert fitted.shape == COLOUR and (fitted == (0, 0, 255)).all()


def test_raw_pixels_and_the_file_of_them_give_the_same_image() -> None:
    pixels = np.random.default_rng(0).integers(200, 256, (301, 507, 4), np.uint8)
    pixels[100:200, 200:220, :3] //= 8  # a stroke, without which noise is no drawing
    raw = from_pixels(pixels.tobytes(), 507, 301, 4)
    for method in (RESIZE, DRAWING):
        for shape in (GREY, COLOUR):
            from_file = fit_file(encoded(raw), shape, Fit(method))
            np.testing.assert_array_equal(fit_picture(raw, shape, Fit(method)), from_file)


def test_resize_never_inverts() -> None:
    assert fit_picture(Image.new("L", (50, 50), 255), GREY, Fit(RESIZE)).min() == 255


def test_fit_none_takes_only_an_image_of_the_models_shape() -> None:
    pixels = np.arange(32 * 32 * 3, dtype=np.uint32).astype(np.uint8).reshape(32, 32, 3)
    np.testing.assert_array_equal(fit_picture(Image.fromarray(pixels), COLOUR, Fit(NONE)), pixels)
    with pytest.raises(BadPicture, match="expected 28 × 28 pixels, L, got 32 × 32, RGB"):
        fit_picture(Image.fromarray(pixels), GREY, Fit(NONE))
