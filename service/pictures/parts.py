"""Connected parts of a mask, in NumPy alone: a labelling library would be larger than the rest of the service.

Owns the labelling and each part's area and box. Not here: which parts are a drawing (drawing.py).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Runs:
    """The horizontal runs of a mask from left to right and top to bottom, and the part of each: arrays (R,)."""

    row: Integers
    start: Integers
    stop: Integers  # the column after the run
    part: Integers  # from 0

    def mask(self, shape: tuple[int, int], parts: Mask) -> Mask:
        """The pixels of the parts for which `parts` is true, as a mask of `shape`."""
        chosen = parts[self.part]
        edges = np.zeros((shape[0], shape[1] + 1), np.int8)
        np.add.at(edges, (self.row[chosen], self.start[chosen]), 1)
        np.add.at(edges, (self.row[chosen], self.stop[chosen]), -1)
        return edges.cumsum(axis=1, dtype=np.int8)[:, :-1].astype(bool)


@dataclass(frozen=True)
class Parts:
    """The parts of a mask: pixels and bounding boxes, arrays (P,)."""

    area: Integers
    top: Integers
    left: Integers
    bottom: Integers  # the row after the part
    right: Integers

    def touching_border(self, shape: tuple[int, int]) -> Mask:
        """Which parts touch the border of the mask of `shape`."""
        vertically = (self.top == 0) | (self.bottom == shape[0])
        horizontally = (self.left == 0) | (self.right == shape[1])
        touching: Mask = vertically | horizontally
        return touching


def connected_parts(mask: Mask) -> tuple[Runs, Parts]:
    """The parts of a mask (height, width) whose pixels touch at a side or a corner."""
    height, width = mask.shape
    padded = np.zeros((height, width + 2), np.int8)
    padded[:, 1:-1] = mask
    changes = np.diff(padded, axis=1)
    row, start = np.nonzero(changes == 1)
    _, stop = np.nonzero(changes == -1)
    above, below = _touching(row, start, stop, width)
    part = _components(len(row), above, below)
    count = int(part.max()) + 1 if len(part) else 0
    top, left = np.full(count, height), np.full(count, width)
    bottom, right = np.zeros(count, np.int64), np.zeros(count, np.int64)
    np.minimum.at(top, part, row)
    np.minimum.at(left, part, start)
    np.maximum.at(bottom, part, row + 1)
    np.maximum.at(right, part, stop)
    area = np.bincount(part, stop - start, count).astype(np.int64)
    return Runs(row, start, stop, part), Parts(area, top, left, bottom, right)


def _touching(row: Integers, start: Integers, stop: Integers, width: int) -> tuple[Integers, Integers]:
    """Pairs of runs in neighbouring rows that touch: indices of the upper and the lower ones."""
    stride = width + 2
    first = np.searchsorted(row * stride + stop, (row + 1) * stride + start)  # ends at or after this run's start
    last = np.searchsorted(row * stride + start, (row + 1) * stride + stop, side="right")  # begins at or before its end
    count = np.maximum(last - first, 0)
    above = np.repeat(np.arange(len(row)), count)
    offset = np.arange(count.sum()) - np.repeat(count.cumsum() - count, count)
    return above, np.repeat(first, count) + offset


def _components(nodes: int, a: Integers, b: Integers) -> Integers:
    """The component of each node of a graph with edges (a, b), from 0, by hooking roots and halving paths."""
    root = np.arange(nodes)
    while len(a):
        low, high = np.minimum(root[a], root[b]), np.maximum(root[a], root[b])
        apart = low != high
        if not apart.any():
            break
        a, b = a[apart], b[apart]
        np.minimum.at(root, high[apart], low[apart])
        while (root[root] != root).any():
            root = root[root]
    return np.unique(root, return_inverse=True)[1].astype(np.int64)
