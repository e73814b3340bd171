"""Finds the sheet of paper on a desk, or the board in its frame: what is around it is no part of a drawing.

Not here: the shade of the paper and its shadows (ink.py).
"""

import numpy as np
from PIL import Image

from service.pictures.parts import connected_parts

# Longer side of the copy on which the sheet is looked for, in pixels.
SIDE = 96
# The least part of the picture that a sheet covers, and the least part of its own box: turned a little, it keeps 0.85;
# a filled circle and fat digits cover less of theirs.
MIN_COVER, MIN_FILLING = 0.25, 0.8
# The least ratio of its sides, because a bar is a drawing.
MIN_RATIO = 0.5
# The largest part of the picture whose shade is in the middle half between sheet and desk: light without a sheet's edge
# fades through it.
MAX_BETWEEN = 0.1
# What is cut off along its edges, in pixels of the copy.
INSET = 2


def without_desk(picture: Image.Image) -> Image.Image:
    """The inside of the sheet, if one lies wholly within the picture; otherwise the whole picture."""
    small = picture.convert("L")
    small.thumbnail((SIDE, SIDE), Image.Resampling.BOX)
    grey = np.asarray(small)
    dark, light = np.quantile(grey, (0.05, 0.95))
    middle = (dark + light) / 2
    if (np.abs(grey - middle) < (light - dark) / 4).mean() > MAX_BETWEEN:
        return picture
    for mask in (grey > middle, grey <= middle):
        _, parts = connected_parts(mask)
        height, width = parts.bottom - parts.top, parts.right - parts.left
        shorter, longer = np.minimum(height, width), np.maximum(height, width)
        sheets = ~parts.touching_border(mask.shape) & (shorter >= MIN_RATIO * longer) & (shorter > 2 * INSET)
        sheets &= parts.area >= np.maximum(MIN_COVER * mask.size, MIN_FILLING * height * width)
        if sheets.any():
            index, scale = int(sheets.argmax()), picture.width / small.width
            left, top = round(scale * (parts.left[index] + INSET)), round(scale * (parts.top[index] + INSET))
            right, bottom = round(scale * (parts.right[index] - INSET)), round(scale * (parts.bottom[index] - INSET))
            return picture.crop((left, top, right, bottom))
    return picture
