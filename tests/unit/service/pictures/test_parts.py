"""Connected parts, compared with a flood fill."""

import numpy as np
from numpy.typing import NDArray

from service.pictures.parts import connected_parts


def flood_fill(mask: NDArray[np.bool_]) -> list[set[tuple[int, int]]]:
    """The parts of a mask as sets of pixels, by the definition."""
    left = {(int(y), int(x)) for y, x in np.argwhere(mask)}
    parts = []
    while left:
        part, open_pixels = set(), [left.pop()]
        while open_pixels:
            y, x = open_pixels.pop()
            part.add((y, x))
            neighbours = {(y + i, x + j) for i in (-1, 0, 1) for j in (-1, 0, 1)} & left
            left -= neighbours
            open_pixels += neighbours
        parts.append(part)
    return parts


def test_parts_areas_and_boxes_are_those_of_a_flood_fill() -> None:
    random = np.random.default_rng(0)
    for _ in range(200):
        mask = random.random((random.integers(1, 14), random.integers(1, 14))) < random.random()
        runs, parts = connected_parts(mask)
        found = []
        for index in range(len(parts.area)):
            pixels = np.argwhere(runs.mask(mask.shape, np.arange(len(parts.area)) == index))
            assert parts.area[index] == len(pixels)
            assert (parts.top[index], parts.left[index]) == tuple(pixels.min(0))
            assert (parts.bottom[index], parts.right[index]) == tuple(pixels.max(0) + 1)
            found.append({(int(y), int(x)) for y, x in pixels})
        assert sorted(map(sorted, found)) == sorted(map(sorted, flood_fill(mask)))


def test_a_part_that_winds_over_the_whole_mask_is_one() -> None:
    mask = np.zeros((99, 60), bool)
    mask[::2] = True
    mask[1::4, 0] = mask[3::4, -1] = True
    _, parts = connected_parts(mask)
    assert parts.area.tolist() == [mask.sum()]


def test_an_empty_mask_has_no_parts() -> None:
    _, parts = connected_parts(np.zeros((5, 5), bool))
    assert len(parts.area) == 0


def test_parts_at_the_border_are_told_from_those_inside() -> None:
    mask = np.zeros((9, 9), bool)
    mask[0, 3] = mask[4, 4] = mask[6, 8] = True
    _, parts = connected_parts(mask)
    assert parts.touching_border((9, 9)).tolist() == [True, False, True]
