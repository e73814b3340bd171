"""Reshapes tensors between the shape that callers see and the shape in the graph, where config.pbtxt tells them apart.

Not here: the check that both shapes hold the same number of elements (models/repository/config.py).
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from service.core.spec import Arrays, ModelSpec, TensorSpec


class Reshapes:
    """The reshapes of a model. The arrays are views where NumPy can make one."""

    def __init__(self, spec: ModelSpec) -> None:
        self._spec = spec
        self._batch_axes = 1 if spec.batches else 0

    def __bool__(self) -> bool:
        """Whether any tensor has another shape in the graph."""
        return any(tensor.graph_shape is not None for tensor in (*self._spec.inputs, *self._spec.outputs))

    def to_graph(self, inputs: Arrays) -> Arrays:
        """A caller's inputs as the graph takes them."""
        return tuple(
            self._reshape(array, tensor.shape, in_graph(tensor).shape)
            for array, tensor in zip(inputs, self._spec.inputs, strict=True)
        )

    def from_graph(self, outputs: Sequence[NDArray[np.generic]]) -> Arrays:
        """The graph's outputs as callers see them."""
        return tuple(
            self._reshape(array, in_graph(tensor).shape, tensor.shape)
            for array, tensor in zip(outputs, self._spec.outputs, strict=True)
        )

    def _reshape(self, array: NDArray[np.generic], old: Sequence[int], new: Sequence[int]) -> NDArray[np.generic]:
        """The array, whose free axes keep their sizes and their order."""
        if old == new:
            return array
        rows, sizes = array.shape[: self._batch_axes], array.shape[self._batch_axes :]
        free = iter([size for size, axis in zip(sizes, old, strict=False) if axis == -1])
        return array.reshape(*rows, *(next(free) if axis == -1 else axis for axis in new))


def in_graph(tensor: TensorSpec) -> TensorSpec:
    """The tensor with its shape in the graph."""
    return tensor if tensor.graph_shape is None else replace(tensor, shape=tensor.graph_shape)
