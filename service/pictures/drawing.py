"""Finds the drawing on a page, and brings it into the form of MNIST's digits: light on dark, scaled and centred.

    1  ink      how much darker each pixel is than the paper around it, without the rules of the paper
    2  parts    the connected parts of the pixels whose ink is above a threshold
    3  strokes  the largest part, with the parts that belong to it; dirt is dropped
    4  image    the ink of the strokes, cropped, scaled and centred

Not here: the desk around the page (sheet.py), ink (ink.py), connected parts (parts.py), decoding (files.py),
transparency (opaque.py).
Source of the form: https://yann.lecun.org/exdb/mnist (a digit fits a box of 20 × 20 pixels, and its centre of mass is
in the middle of 28 × 28).
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from service.pictures.files import BadPicture
from service.pictures.fit import DIGIT_SHARE
from service.pictures.ink import MIDDLE, Bytes, Floats, border_of, ink_of, slide, without_rules
from service.pictures.parts import Mask, Parts, connected_parts
from service.pictures.sheet import without_desk

# The shorter side to which a larger picture is to be reduced, in pixels: it has at least this and less than twice it.
WORKING_SIDE = 360
# Sides of the window that must contain some paper, as fractions of the shorter side: it must be wider than any stroke,
# but paper in a narrower shadow is taken for ink. The next one is for a crowded picture: the drawing touches the border
# or contains a square of this fraction of the window. The last one is the whole picture.
PAPER_WINDOWS, BROAD = (0.25, 0.5, math.inf), 0.6
# A threshold that no ink is above.
BLANK = 1.0
# The least difference between strokes and paper, from 0 to 1, which is black on white.
MIN_INK = 0.07
# The same, in standard deviations of the paper's ink. The halves of a paper's grain or noise differ by 2.7.
MIN_CONTRAST = 3.5
# A rule is at least this fraction of the page long, and at most this fraction of the shorter side thick.
RULE_LENGTH, RULE_THICKNESS = 0.9, 0.02
# Smaller parts than these fractions of the largest one's area are dirt: near it, and elsewhere.
MIN_NEAR_AREA, MIN_FAR_AREA = 0.04, 0.2
# Parts belong to the drawing up to this distance, as a fraction of its longer side.
NEAR = 0.12
# Two parts beside each other are two drawings if neither's height is below this fraction of the other's.
LIKE_HEIGHT = 0.7
# The thinnest strokes of an image, in its pixels; MNIST's are 1.9 to 4. A pen's thinner ones are widened to this.
MIN_STROKE = 2.2
# A part whose longer side is below this fraction of the picture's shorter side is dirt.
MIN_SIZE = 0.04
# Parts that touch the border are dropped if the largest one inside has this fraction of their area, or if they are
# below this fraction of the picture in height and width.
MIN_INSIDE_AREA, FILLING = 0.02, 0.5


@dataclass(frozen=True)
class Page:
    """A picture, read with one window for the paper."""

    ink: Floats  # (height, width)
    threshold: float  # the least ink of a stroke
    strokes: Mask  # of the drawing
    is_crowded: bool  # the strokes leave little paper, so that it may not be the paper that was found
    problem: str  # why the strokes are no drawing; empty if they are one


def fit_drawing(picture: Image.Image, size: tuple[int, int], share: float = DIGIT_SHARE) -> Bytes:
    """An opaque picture, mode L or RGB, as an image (height, width) of `size`.

    A picture that has this size already is only made light on dark. A large one takes seconds: see WORKING_SIDE.

    Raises:
        BadPicture: there is no drawing, or there are several.
    """
    if picture.size == (size[1], size[0]):
        return _light_on_dark(np.asarray(picture.convert("L")))
    picture = without_desk(picture)
    pages = []
    for paper_window in PAPER_WINDOWS:
        pages.append(_read_page(picture, paper_window))
        if not pages[-1].is_crowded:
            break
    page = next((page for page in reversed(pages) if not page.problem), pages[0])
    if page.problem:
        raise BadPicture(page.problem)
    return _image(page, size, share)


def _read_page(picture: Image.Image, paper_window: float) -> Page:
    ink = ink_of(picture, paper_window)
    threshold = _threshold(ink, paper_window)
    runs, parts = connected_parts(ink > threshold)
    if _is_long(parts, ink.shape).any():
        ink = without_rules(ink)
        threshold = _threshold(ink, paper_window)
        runs, parts = connected_parts(ink > threshold)
    area = _usable_area(parts, ink.shape)
    chosen = _largest_with_near(parts, area)
    strokes = runs.mask(ink.shape, chosen)
    touches = bool((chosen & parts.touching_border(ink.shape)).any())
    is_crowded = touches or _has_square(strokes, BROAD * paper_window)
    problem = _problem(area, chosen, threshold)
    if touches and not strokes[_inside(ink.shape, paper_window)].any():
        problem, is_crowded = "no drawing found: only the border of the page is dark", False
    return Page(ink, threshold, strokes, is_crowded, problem)


def _has_square(mask: Mask, side: float) -> bool:
    """Whether the mask contains a square; `side` is a fraction of its own shorter side."""
    if side == math.inf:
        return False
    window = round(side * min(mask.shape)) | 1
    return bool(slide(mask.astype(np.uint8), window, np.minimum, outside=0).any())


def _light_on_dark(grey: Bytes) -> Bytes:
    if int(grey.max()) - int(grey.min()) < MIN_INK * 255:
        raise BadPicture("no drawing found: the picture has one shade")
    return 255 - grey if np.median(border_of(grey)) > MIDDLE else grey


def _threshold(ink: Floats, paper_window: float) -> float:
    """The ink that divides strokes from paper; BLANK if nothing stands out.

    Near the border, paper is known on one side only, so that a gradient of the light leaves ink there. That ink must
    not outweigh a thin pen's, and counts only if nothing inside stands out.
    """
    inside = _otsu(ink[_inside(ink.shape, paper_window)])
    return inside if inside != BLANK else _otsu(ink)


def _inside(shape: tuple[int, ...], paper_window: float) -> tuple[slice, slice]:
    """The pixels of a picture whose window does not reach beyond its border."""
    margin = round(paper_window / 2 * min(shape)) if paper_window != math.inf else 0
    return slice(margin, shape[0] - margin), slice(margin, shape[1] - margin)


def _otsu(ink: Floats) -> float:
    """The middle between Otsu's two classes of ink; BLANK if they are too close: MIN_INK, MIN_CONTRAST."""
    counts = np.histogram(ink, 256, (0, 1))[0].astype(np.float64)
    levels = (np.arange(256) + 0.5) / 256
    below = counts.cumsum()
    above = below[-1] - below
    sums = (counts * levels).cumsum()
    with np.errstate(invalid="ignore", divide="ignore"):
        dark, light = (sums[-1] - sums) / above, sums / below
        variance = np.nan_to_num(below * above * (dark - light) ** 2)
    best = int(variance.argmax())
    if variance[best] == 0:
        return BLANK
    spread = math.sqrt(max(0.0, (counts * levels**2)[: best + 1].sum() / below[best] - light[best] ** 2))
    stands_out = dark[best] - light[best] >= max(MIN_INK, MIN_CONTRAST * spread)
    return float(dark[best] + light[best]) / 2 if stands_out else BLANK


def _is_long(parts: Parts, shape: tuple[int, int]) -> Mask:
    """Which parts reach across the page, as rules do."""
    height, width = parts.bottom - parts.top, parts.right - parts.left
    return (height >= RULE_LENGTH * shape[0]) | (width >= RULE_LENGTH * shape[1])


def _largest_with_near(parts: Parts, area: NDArray[np.int64]) -> Mask:
    """Which parts are the largest one, and those that belong to it."""
    chosen = np.zeros(len(area), bool)
    if not area.any():
        return chosen
    chosen[area.argmax()] = True
    while True:
        near = ~chosen & (area >= MIN_NEAR_AREA * area.max()) & (_distances(parts, chosen) <= NEAR)
        near &= ~_beside(parts, chosen)
        if not near.any():
            return chosen
        chosen |= near


def _problem(area: NDArray[np.int64], chosen: Mask, threshold: float) -> str:
    """Why the chosen parts are no drawing; empty if they are one."""
    if threshold == BLANK:
        return "no drawing found: nothing stands out from the paper"
    if not chosen.any():
        return "no drawing found: nothing on the page has the size of one"
    others = int((~chosen & (area >= MIN_FAR_AREA * area.max())).sum())
    return f"several found: the page shows {1 + others} drawings; send one at a time" if others else ""


def _beside(parts: Parts, chosen: Mask) -> Mask:
    """Which parts are next to the chosen ones and about as high, as digits of a number are."""
    top, bottom = parts.top[chosen].min(), parts.bottom[chosen].max()
    apart = (parts.right <= parts.left[chosen].min()) | (parts.left >= parts.right[chosen].max())
    height = parts.bottom - parts.top
    beside: Mask = apart & (height >= LIKE_HEIGHT * (bottom - top)) & (LIKE_HEIGHT * height <= bottom - top)
    return beside


def _usable_area(parts: Parts, shape: tuple[int, int]) -> NDArray[np.int64]:
    """The area of each part that may be of a drawing; 0 for lines across the page, dirt, and what the border cuts.

    Shadows and edges of the page touch the picture's border. A drawing does only if it was cropped close: then it fills
    the picture, and nothing large is inside.
    """
    height, width = parts.bottom - parts.top, parts.right - parts.left
    thin = parts.area <= RULE_THICKNESS * min(shape) * (height + width)
    tiny = np.maximum(height, width) < MIN_SIZE * min(shape)
    area = np.where(tiny | (_is_long(parts, shape) & thin), 0, parts.area)
    touches = parts.touching_border(shape)
    inside = np.where(touches, 0, area)
    fills = (height >= FILLING * shape[0]) | (width >= FILLING * shape[1])
    filling = np.where(touches & ~fills, 0, area)
    return inside if inside.max(initial=0) >= MIN_INSIDE_AREA * filling.max(initial=0) else filling


def _distances(parts: Parts, chosen: Mask) -> NDArray[np.float64]:
    """The gap between each part's box and the box of the chosen parts, as a fraction of the latter's longer side."""
    top, left = parts.top[chosen].min(), parts.left[chosen].min()
    bottom, right = parts.bottom[chosen].max(), parts.right[chosen].max()
    y = np.maximum(np.maximum(top - parts.bottom, parts.top - bottom), 0)
    x = np.maximum(np.maximum(left - parts.right, parts.left - right), 0)
    distances: NDArray[np.float64] = np.hypot(x, y) / max(bottom - top, right - left)
    return distances


# --- image ---


def _image(page: Page, size: tuple[int, int], share: float) -> Bytes:
    """The ink of the strokes as an image: 0 for half the threshold, 255 for the ink of most strokes."""
    ink, strokes, threshold = page.ink, page.strokes, page.threshold
    full, none = float(np.quantile(ink[strokes], 0.75)), threshold / 2
    edge = slide(strokes.astype(np.uint8), 5, np.maximum, outside=0).astype(bool)  # with the strokes' soft edge
    light = np.where(edge, (ink - none) / max(full - none, 1e-3), 0).clip(0, 1) * 255
    rows, columns = np.flatnonzero(strokes.any(axis=1)), np.flatnonzero(strokes.any(axis=0))
    drawing = light[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].astype(np.uint8)
    scale = share * min(size[0] / drawing.shape[0], size[1] / drawing.shape[1])
    widen = round((MIN_STROKE / scale - _stroke_width(strokes)) / 2)
    if widen > 0:
        drawing = slide(np.pad(drawing, widen), 2 * widen + 1, np.maximum, outside=0)
    return centred(drawing, size, share)


def _stroke_width(strokes: Mask) -> float:
    """The mean width of strokes: a long stroke has twice its area divided by its outline."""
    padded = np.pad(strokes, 1)
    sides = np.count_nonzero(padded[1:] != padded[:-1]) + np.count_nonzero(padded[:, 1:] != padded[:, :-1])
    return 2 * np.count_nonzero(strokes) / (sides * np.pi / 4)  # sides of pixels are longer than a slanted outline


def centred(drawing: Bytes, size: tuple[int, int], share: float) -> Bytes:
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
