"""Random rows to try a graph on: values that suit each type, and lengths for free axes.

Not here: what is compared (row_independence.py); the zeros that warm an engine up (verifier.py).
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from service.core.datatypes import BYTES
from service.core.spec import Arrays, ModelSpec, TensorSpec

# Length of free axes. Convolutions need more than one element, and many graphs a multiple of 32.
FREE_LENGTHS = (3, 1, 32)
# Elements of a row above which the longer free axes are not tried.
MAX_FREE_ELEMENTS = 2**22
# Kinds of values, the most telling first. A graph may take fewer, such as an index into a table.
WIDE, NARROW, ZERO = "wide", "narrow", "zero"


def trial_rows(spec: ModelSpec, count: int) -> Iterator[Arrays]:
    """Sets of `count` random rows, always the same, with the most telling values first."""
    generator = np.random.default_rng(0)
    has_free_axes = any(-1 in tensor.shape for tensor in spec.inputs)
    for values in (WIDE, NARROW, ZERO):
        for length in FREE_LENGTHS if has_free_axes else (1,):
            shapes = [tuple(length if axis == -1 else axis for axis in tensor.shape) for tensor in spec.inputs]
            if length == 1 or sum(map(np.prod, shapes)) <= MAX_FREE_ELEMENTS:
                yield tuple(
                    _random(generator, tensor, (count, *shape), values)
                    for tensor, shape in zip(spec.inputs, shapes, strict=True)
                )


def _random(
    generator: np.random.Generator, tensor: TensorSpec, shape: tuple[int, ...], values: str
) -> NDArray[np.generic]:
    """Random elements. Wide: normal, all of a byte, 0 to 9, or digits; narrow: 0 to 1; zero: zeros or empty strings."""
    data_type = tensor.data_type
    if values == ZERO:
        return np.full(shape, "" if data_type is BYTES else 0, data_type.dtype)
    if data_type is BYTES:
        return generator.integers(0, 10, shape).astype(str).astype(object)
    if data_type.dtype.kind == "f" or data_type.name == "BF16":
        floats = generator.standard_normal(shape, np.float32) if values == WIDE else generator.random(shape, np.float32)
        if data_type.name == "BF16":
            return (floats.view(np.uint32) >> np.uint32(16)).astype(np.uint16)
        return floats.astype(data_type.dtype)
    limit = 2 if values == NARROW or data_type.dtype.kind == "b" else 256 if data_type.name == "UINT8" else 10
    return generator.integers(0, limit, shape).astype(data_type.dtype)
