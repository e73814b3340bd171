"""Decoding images within limits, and fitting them to a model's input."""

import contextlib
import io
import struct
import zlib

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from service.pictures.files import MAX_PIXELS, BadPicture, decode, from_pixels, memory_needed
from service.pictures.fit import DRAWING, NONE, RESIZE, Fit
from service.pictures.fitting import fit_picture
from tests.support.images import big_scan

TestImages = tuple[NDArray[np.uint8], NDArray[np.uint8]]
GREY, COLOUR = (28, 28, 1), (32, 32, 3)


def encoded(image: Image.Image, form: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "BMP"])
def test_each_format_is_decoded(form: str) -> None:
    image = Image.new("RGB", (40, 30), (200, 100, 50))
    decoded = decode(encoded(image, form))
    assert decoded.size == (40, 30)
    np.testing.assert_allclose(np.asarray(decoded.convert("RGB"))[15, 20], (200, 100, 50), atol=6)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "expected a PNG, JPEG, WebP, HEIC, AVIF, GIF, BMP or TIFF file, got an empty file"),
        (b"not an image", "got text"),
        (encoded(Image.effect_noise((90, 90), 9))[:400], "the PNG file is damaged"),
        (encoded(Image.effect_noise((90, 90), 9), "JPEG")[:100], "the JPEG file is damaged"),
    ],
)
def test_a_file_that_is_not_a_whole_image_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(BadPicture, match=message):
        decode(data)


def png_with_size(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header claims that size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(("width", "height"), [(100_000, 100_000), (MAX_PIXELS + 1, 1)])
def test_a_decompression_bomb_is_refused_before_it_is_decoded(width: int, height: int) -> None:
    with pytest.raises(BadPicture, match=f"expected at most {MAX_PIXELS:,} pixels, got {width} × {height}"):
        decode(png_with_size(width, height))
    with pytest.raises(BadPicture, match="pixels, got"):
        from_pixels(b"", width, height, 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((bytes(12), 2, 2, 2), "channels expected 1, 3 or 4, got 2"),
        ((b"", 0, 2, 1), "expected at least 1, got 0 × 2"),
        ((bytes(11), 2, 2, 3), "pixels expected 2 × 2 × 3 bytes, got 11"),
    ],
)
def test_raw_pixels_must_match_their_size(arguments: tuple[bytes, int, int, int], message: str) -> None:
    with pytest.raises(BadPicture, match=message):
        from_pixels(*arguments)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "BMP"])
def test_a_damaged_file_is_decoded_or_refused_without_another_exception(form: str) -> None:
    random = np.random.default_rng(0)
    whole = np.frombuffer(encoded(Image.effect_noise((20, 20), 50), form), np.uint8)
    for _ in range(500):
        damaged = whole.copy()
        damaged[random.integers(0, len(damaged), 3)] = random.integers(0, 256, 3)
        with contextlib.suppress(BadPicture):
            fit_picture(decode(damaged.tobytes()), GREY, Fit(DRAWING))


def test_an_image_is_rotated_by_its_exif_orientation() -> None:
    image = Image.new("L", (40, 20))
    exif = image.getexif()
    exif[0x0112] = 6  # orientation: rotated by 90 degrees
    assert decode(encoded(image, "JPEG", exif=exif)).size == (20, 40)


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


def test_resize_never_inverts() -> None:
    assert fit_picture(Image.new("L", (50, 50), 255), GREY, Fit(RESIZE)).min() == 255


def test_16_bit_grey_is_converted_to_8_bits() -> None:
    values = (np.arange(28 * 28, dtype=np.uint16) * 83).reshape(28, 28)
    decoded = decode(encoded(Image.fromarray(values)))
    np.testing.assert_array_equal(fit_picture(decoded, GREY, Fit(RESIZE))[:, :, 0], values >> 8)


def test_fit_none_takes_only_an_image_of_the_models_shape() -> None:
    pixels = np.arange(32 * 32 * 3, dtype=np.uint32).astype(np.uint8).reshape(32, 32, 3)
    np.testing.assert_array_equal(fit_picture(Image.fromarray(pixels), COLOUR, Fit(NONE)), pixels)
    with pytest.raises(BadPicture, match="expected 28 × 28 pixels, L, got 32 × 32, RGB"):
        fit_picture(Image.fromarray(pixels), GREY, Fit(NONE))


def test_the_memory_of_decoding_is_estimated_from_the_header() -> None:
    picture = Image.effect_noise((1600, 1200), 50).convert("RGB")
    pixels, spare = 1600 * 1200, 3 * 2**20
    for form, options, bytes_a_pixel in (
        ("PNG", {}, 4),
        ("JPEG", {}, 1),  # decoded at half the size
        ("JPEG", {"progressive": True}, 1 + 2 * 1.5),  # and the coefficients at full size, 4:2:0
        ("WEBP", {}, 17),
    ):
        needed = memory_needed(encoded(picture, form, **options), 512)
        assert bytes_a_pixel * pixels <= needed <= bytes_a_pixel * pixels + 2 * pixels + spare
    with pytest.raises(BadPicture, match="expected at most"):
        memory_needed(png_with_size(100_000, 100_000), 512)
    with pytest.raises(BadPicture, match="got text"):
        memory_needed(b"not an image", 512)
