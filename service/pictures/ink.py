"""The ink of a page: how much darker each pixel is than the paper around it, whatever the light and the pen.

Owns the estimate of the paper, the choice between dark on light and light on dark, and the removal of rules. Not here:
which ink is the drawing (drawing.py).
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from service.pictures.parts import connected_parts

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]

# Of two shades, the one above this is light.
MIDDLE = 127
# Paper at the border above this is light enough that strokes are dark; below, both may be.
LIGHT_PAPER = 140
# Longer side of the copy on which dark on light and light on dark are told apart, in pixels.
POLARITY_SIDE = 48
# Paper in deeper shadow than this, from 0 to 255, is taken for this: dividing by less would only amplify noise.
DARKEST_PAPER = 40
# Rules of the paper: their largest angle to the picture's sides and the step of its search, in degrees.
RULE_ANGLE, RULE_ANGLE_STEP = 4.0, 0.5
# Their least ink, its spread along a rule, and their largest thickness as a fraction of the picture's shorter side.
RULE_INK, RULE_SPREAD, RULE_THICKNESS = 0.03, 1.4, 0.02
# The share of the pixels along a rule whose ink tells its angle. The median would not: where a row leaves a rule at one
# end and meets the next pixels of it at the other, the median is that of the middle.
RULE_SHARE = 0.7


def ink_of(picture: Image.Image, paper_window: float) -> Floats:
    """The ink of each pixel (height, width), from 0 for paper to 1.

    `paper_window` is the side of a window that contains some paper wherever it lies, as a fraction of the shorter side;
    infinity is the whole picture. The ink of a pixel is the largest of its channels', so that pens of every colour are
    dark. A picture that is light on dark is inverted first.
    """
    smooth = np.asarray(picture.filter(ImageFilter.GaussianBlur(1)))
    channels = [smooth] if smooth.ndim == 2 else [smooth[:, :, index] for index in range(3)]
    if _is_light_on_dark(np.asarray(picture.convert("L"))):
        channels = [255 - channel for channel in channels]
    inks = []
    for channel in channels:
        paper = _paper(channel, paper_window).astype(np.float32)
        inks.append((paper - channel) / np.maximum(paper, DARKEST_PAPER))
    ink: Floats = np.max(inks, axis=0).clip(0, 1)
    return ink


def border_of(grey: Bytes) -> Bytes:
    """The outermost pixels of a picture (height, width), as one row."""
    return np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])


def _is_light_on_dark(grey: Bytes) -> bool:
    """Whether the strokes are lighter than the paper.

    Light paper at the border is reason enough to say no. Dark paper may lie in shadow. Strokes are narrow, so a wide
    median shows the paper, and most of what differs from it is strokes. What differs at the picture's border counts
    only if nothing else does: in corners of shadows, the median shows the other side.
    """
    if np.median(border_of(grey)) > LIGHT_PAPER:
        return False
    small = Image.fromarray(grey)
    small.thumbnail((POLARITY_SIDE, POLARITY_SIDE), Image.Resampling.BOX)
    margin = max(1, min(small.size) // 4)
    padded = Image.fromarray(np.pad(np.asarray(small), margin, "edge"))
    median = np.asarray(padded.filter(ImageFilter.MedianFilter(2 * margin + 1)), np.int32)
    difference = np.asarray(small, np.int32) - median[margin:-margin, margin:-margin]
    runs, parts = connected_parts(np.abs(difference) > np.abs(difference).max() / 4)
    inside = runs.mask(difference.shape, ~parts.touching_border(difference.shape))
    strength = np.sign(difference) * difference**2
    return bool((strength[inside] if inside.any() else strength).sum() > 0)


def _paper(channel: Bytes, paper_window: float) -> Bytes:
    """The paper behind the strokes: the lightest near each pixel, unless a whole window is darker (a closing).

    Windows are cut off at the border of the picture, where they show the paper on one side only.
    """
    if paper_window == math.inf:
        return np.full_like(channel, channel.max())
    window = max(3, round(paper_window * min(channel.shape))) | 1
    closed = slide(slide(channel, window, np.maximum, outside=0), window, np.minimum, outside=255)
    return np.asarray(Image.fromarray(closed).filter(ImageFilter.BoxBlur(2)))


def slide(array: Bytes, window: int, choose: np.ufunc, *, outside: int) -> Bytes:
    """The extreme of the odd window around each pixel, by doubling shifts along both axes; `outside` is around it."""
    for axis in (0, 1):
        widths = [(window // 2, window // 2) if a == axis else (0, 0) for a in (0, 1)]
        array = np.moveaxis(np.pad(array, widths, constant_values=outside), axis, 0)
        reach = 1
        while reach < window:
            step = min(reach, window - reach)
            array = choose(array[:-step], array[step:])
            reach += step
        array = np.moveaxis(array, 0, axis)
    return array


def without_rules(ink: Floats) -> Floats:
    """The ink without straight thin lines across the page, in both directions."""
    return _without_lines(_without_lines(ink).T).T


def _without_lines(ink: Floats) -> Floats:
    """The ink without lines that run roughly from left to right: ink that most pixels of a sheared row have."""
    slopes = np.tan(np.radians(np.arange(-RULE_ANGLE, RULE_ANGLE + RULE_ANGLE_STEP, RULE_ANGLE_STEP)))
    small = ink[::2, ::4]  # a slope is twice as steep in it
    strengths = [(_exceeded(_sheared(small, 2 * slope)) ** 2).sum() for slope in slopes]
    slope = float(slopes[int(np.argmax(strengths))])
    sheared = _sheared(ink, slope)
    line = _thin(np.median(sheared, axis=1), round(RULE_THICKNESS * min(ink.shape)))
    line = np.maximum(np.maximum(line, np.roll(line, 1)), np.roll(line, -1))[:, None]  # with its soft edges
    is_line = (line > RULE_INK) & (sheared <= RULE_SPREAD * line + RULE_INK)  # a stroke across a line is darker
    return np.where(_sheared(is_line, -slope), np.float32(0), ink)


def _exceeded(rows: Floats) -> Floats:
    """The ink that RULE_SHARE of each row's pixels exceed."""
    rank = int(rows.shape[1] * (1 - RULE_SHARE))
    ink: Floats = np.partition(rows, rank, axis=1)[:, rank]
    return ink


def _sheared(array: NDArray[Any], slope: float) -> NDArray[Any]:
    """Each column moved up by `slope` times its distance from the middle; what comes from outside is zero."""
    height, width = array.shape
    columns = np.arange(width)
    rows = np.arange(height)[:, None] + np.rint((columns - width // 2) * slope).astype(np.int64)
    return np.where((rows >= 0) & (rows < height), array[rows.clip(0, height - 1), columns], 0)


def _thin(profile: Floats, thickness: int) -> Floats:
    """The peaks of the profile above RULE_INK that are at most `thickness` rows wide at half their height; else 0."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], profile > RULE_INK, [0]])))
    thin = np.zeros_like(profile)
    for start, stop in edges.reshape(-1, 2):
        peak = profile[start:stop]
        if np.count_nonzero(peak > peak.max() / 2) <= thickness:
            thin[start:stop] = peak
    return thin
