"""Finding the drawing on a page; tests/integration/test_photos.py has the kinds of photographs."""

from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from service.pictures.drawing import fit_drawing
from service.pictures.files import BadPicture

SIZE = (28, 28)
PAPER = 235
TestImages = tuple[NDArray[np.uint8], NDArray[np.uint8]]


def page(width: int = 300, height: int = 400, paper: int = PAPER) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    """An empty page with a little noise, and the pen to draw on it."""
    noise = np.random.default_rng(0).normal(0, 1.5, (height, width))
    image = Image.fromarray((paper + noise).clip(0, 255).astype(np.uint8))
    return image, ImageDraw.Draw(image)


def seven(pen: ImageDraw.ImageDraw, x: int, y: int, height: int = 100, ink: int = 40) -> None:
    """Draw a seven of that height, in pixels."""
    width = height // 10
    pen.line([(x, y), (x + height // 2, y), (x + height // 6, y + height)], fill=ink, width=width)


def test_the_drawing_is_light_on_dark_20_pixels_high_and_centred() -> None:
    image, pen = page()
    seven(pen, 40, 200)
    fitted = fit_drawing(image, SIZE)
    rows = np.flatnonzero(fitted.max(1) > 100)
    assert fitted.dtype == np.uint8 and fitted.max() > 240
    assert 19 <= np.ptp(rows) + 1 <= 20
    mass_y, mass_x = (np.indices(SIZE) * fitted).sum((1, 2)) / fitted.sum()
    assert abs(mass_y - 13.5) <= 1 and abs(mass_x - 13.5) <= 1


def test_faint_ink_becomes_as_light_as_strong_ink() -> None:
    images = []
    for ink in (40, 170):
        image, pen = page()
        seven(pen, 40, 200, ink=ink)
        images.append(fit_drawing(image, SIZE).astype(int))
    assert abs(images[0].max() - images[1].max()) < 20
    assert np.abs(images[0] - images[1]).mean() < 12


def test_strokes_of_a_thin_pen_are_widened() -> None:
    image, pen = page()
    pen.line([(80, 60), (180, 60), (110, 340)], fill=40, width=4)  # a seven, 70 strokes high: 0.3 pixels in the image
    ink_of_rows = fit_drawing(image, SIZE)[8:20].sum(1) / 255
    assert 1.8 <= ink_of_rows.mean() <= 3  # pixels


def test_light_on_dark_is_the_same_as_dark_on_light() -> None:
    image, pen = page()
    seven(pen, 40, 200)
    inverted = Image.fromarray(255 - np.asarray(image))
    assert np.abs(fit_drawing(image, SIZE).astype(int) - fit_drawing(inverted, SIZE)).mean() < 8


def test_a_drawing_in_two_near_parts_is_kept_whole() -> None:
    image, pen = page()
    pen.rectangle((100, 100, 160, 108), fill=40)  # the bar of a five
    pen.rectangle((100, 116, 108, 200), fill=40)
    rows, columns = np.nonzero(fit_drawing(image, SIZE) > 100)
    assert np.ptp(rows) == 19 and np.ptp(columns) == 11  # 20 × 12 pixels, as the box of both parts: 101 × 61


def test_dirt_is_dropped() -> None:
    image, pen = page()
    seven(pen, 100, 100)
    clean = fit_drawing(image, SIZE)
    for x, y in ((20, 20), (280, 380), (250, 60)):
        pen.ellipse((x, y, x + 8, y + 8), fill=30)
    np.testing.assert_allclose(fit_drawing(image, SIZE), clean, atol=3)


def test_two_digits_beside_each_other_are_several() -> None:
    for gap in (20, 100):
        image, pen = page()
        seven(pen, 40, 200, height=80)
        seven(pen, 80 + gap, 200, height=80)
        with pytest.raises(BadPicture, match="several found: the page shows 2 drawings; send one at a time"):
            fit_drawing(image, SIZE)


def test_a_thin_pen_outweighs_a_gradient_of_the_light() -> None:
    image, pen = page()
    pen.line([(120, 150), (170, 150), (140, 250)], fill=120, width=3)
    light = np.linspace(0.5, 1, 300)[None, :] * np.asarray(image)
    shaded = fit_drawing(Image.fromarray(light.astype(np.uint8)), SIZE)
    assert np.abs(shaded.astype(int) - fit_drawing(image, SIZE)).mean() < 0.5


@pytest.mark.parametrize("thickness", [3, 4])
def test_strong_rules_are_removed(thickness: int) -> None:
    image, pen = page()
    for y in range(13, 400, 40):
        pen.line((0, y, 300, y), fill=120, width=thickness)
    pen.ellipse((80, 150, 200, 290), outline=30, width=14)
    rows, columns = np.nonzero(fit_drawing(image, SIZE) > 100)
    assert np.ptp(rows) + 1 == 20 and np.ptp(columns) + 1 in (17, 18)  # as the ellipse: 141 × 121


@pytest.mark.parametrize(("paper", "desk"), [(PAPER, 60), (60, 170)])
def test_a_desk_around_the_page_is_left_out(paper: int, desk: int) -> None:
    image, pen = page(paper=paper)
    seven(pen, 100, 150, ink=255 - paper)
    scene = Image.new("L", (400, 500), desk)
    scene.paste(image, (50, 50))
    turned = scene.rotate(3, Image.Resampling.BICUBIC, fillcolor=desk)
    for picture in (scene, turned):
        rows, columns = np.nonzero(fit_drawing(picture, SIZE) > 100)
        assert np.ptp(rows) + 1 == 20 and np.ptp(columns) + 1 in (10, 11, 12)  # as the seven: 105 × 55


@pytest.mark.parametrize("paper", [100, 135])
def test_strokes_may_be_lighter_or_darker_than_grey_paper(paper: int) -> None:
    for ink in (20, 250):
        image, pen = page(paper=paper)
        seven(pen, 100, 150, ink=ink)
        rows, columns = np.nonzero(fit_drawing(image, SIZE) > 100)
        assert np.ptp(rows) + 1 == 20 and np.ptp(columns) + 1 in (10, 11, 12)


def empty_pages() -> Iterator[tuple[str, Image.Image]]:
    """Pages without a drawing."""
    yield "empty", page()[0]
    yield "black", page(paper=5)[0]
    yield "one pixel", Image.new("L", (1, 1))
    yield "one row", Image.new("L", (20_000, 1), 200)
    image, pen = page()
    for y in range(10, 400, 25):
        pen.line((0, y, 300, y + 6), fill=150, width=2)
    yield "ruled, slightly turned", image
    image, pen = page()
    pen.polygon([(0, 300), (0, 400), (80, 400)], fill=120)
    yield "the corner of a shadow", image
    image, pen = page()
    pen.ellipse((50, 50, 58, 58), fill=30)
    yield "a speck", image
    light = np.linspace(0.55, 1, 300)[None, :] * np.asarray(page()[0])
    yield "a gradient of light", Image.fromarray(light.astype(np.uint8))
    y, x = np.mgrid[-1:1:400j, -1:1:300j]
    yield "dark corners", Image.fromarray((np.asarray(page()[0]) * (1 - 0.3 * (x**2 + y**2))).astype(np.uint8))
    grain = np.random.default_rng(0).normal(0, 1, (100, 75)).repeat(4, 0).repeat(4, 1)
    desk = Image.new("L", (400, 500), 60)
    desk.paste(page()[0], (50, 50))
    yield "a page on a desk", desk
    yield "recycled paper", Image.fromarray((190 + 15 * grain).clip(0, 255).astype(np.uint8))


@pytest.mark.parametrize("image", [pytest.param(image, id=name) for name, image in empty_pages()])
def test_a_page_without_ink_is_refused(image: Image.Image) -> None:
    with pytest.raises(BadPicture, match="no drawing found"):
        fit_drawing(image, SIZE)


def test_an_image_of_the_models_size_without_contrast_is_refused() -> None:
    with pytest.raises(BadPicture, match="no drawing found"):
        fit_drawing(Image.new("L", (28, 28), 240), SIZE)


def test_a_digit_cropped_close_is_read_as_one_with_a_margin(test_images: TestImages) -> None:
    for digit in test_images[0][:20, :, :, 0]:
        ink = Image.fromarray(255 - digit).resize((280, 280), Image.Resampling.BICUBIC)
        rows, columns = np.flatnonzero(digit.max(1) > 60), np.flatnonzero(digit.max(0) > 60)
        close = ink.crop((10 * columns[0], 10 * rows[0], 10 * columns[-1] + 10, 10 * rows[-1] + 10))
        difference = fit_drawing(close, SIZE).astype(int) - fit_drawing(ink, SIZE)
        assert np.abs(difference).mean() < 16


@pytest.mark.parametrize("shape", [(1, 3), (3, 1), (2, 2), (5, 400), (400, 5), (27, 28), (9, 5000), (6, 6)])
def test_pictures_of_any_size_and_content_are_fitted_or_refused(shape: tuple[int, int]) -> None:
    random = np.random.default_rng(0)
    framed = np.pad(np.full([max(0, side - 2) for side in shape], 255), 1)[: shape[0], : shape[1]]
    noise, grains = random.integers(0, 256, shape), random.integers(0, 2, shape) * 255
    for pixels in (noise, grains, np.indices(shape).sum(0) % 256, framed):
        try:
            fitted = fit_drawing(Image.fromarray(pixels.astype(np.uint8)), SIZE)
        except BadPicture:
            continue
        assert fitted.shape == SIZE and fitted.dtype == np.uint8
