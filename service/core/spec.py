"""A model version's inputs, outputs and configuration, the Backend that runs it, and the outputs of a run.

Plain data that every layer uses. Not here: reading it from config.pbtxt and the graph (models/repository/config.py).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from service.core.datatypes import DataType
from service.pb.model_config_pb2 import ModelConfig

# The inputs or the outputs of a run, in the graph's order.
Arrays = tuple[NDArray[np.generic], ...]

# The outputs that a request asks for: (index, number of top classes), 0 classes for the values themselves.
RequestedOutputs = tuple[tuple[int, int], ...]

# Computes the outputs of one batch.
Run = Callable[[Arrays], Sequence[NDArray[np.generic]]]


class Backend(Protocol):
    """Computes batches, one at a time: an ONNX Runtime session, or a fake in tests."""

    def run(self, inputs: Arrays) -> Sequence[NDArray[np.generic]]:
        """The outputs of one batch. Later runs do not write to the returned arrays."""

    def input_buffers(self, rows: int) -> Arrays | None:
        """Preallocated input arrays for a batch of `rows` rows; None if the backend has no preference."""


@dataclass(frozen=True)
class TensorSpec:
    """An input or output of a model. `shape` excludes the batch axis if the model batches; -1 is an axis of any size.

    `labels` are the class names of an output, by class id; empty if the model has none. `graph_shape` is the shape in
    the graph if config.pbtxt reshapes the tensor: as many elements, and as many axes of any size, in the same order.
    """

    name: str
    data_type: DataType
    shape: tuple[int, ...]
    labels: tuple[str, ...] = ()
    graph_shape: tuple[int, ...] | None = None


@dataclass(frozen=True, eq=False)  # compared and hashed by identity, which is fast
class ModelSpec:
    """A model version. `max_batch_size` 0: the model does not batch, shapes are complete, and each request is a run."""

    name: str
    version: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    max_batch_size: int
    config: ModelConfig  # complete: fields that config.pbtxt omits are derived from the graph

    @cached_property
    def all_outputs(self) -> RequestedOutputs:
        """Every output in full: its index, and 0 for no classification."""
        return tuple((index, 0) for index in range(len(self.outputs)))

    @cached_property
    def batches(self) -> bool:
        """Whether the first axis of every tensor is the batch."""
        return self.max_batch_size > 0


class Outputs:
    """The outputs of one run, which the requests of its batch share; each tensor is converted to bytes only once.

    `whole`: the batch has one request, without padding, so that it gets the arrays undivided.
    """

    __slots__ = ("_raw", "arrays", "shapes", "whole")

    def __init__(self, arrays: Arrays, *, whole: bool) -> None:
        self.arrays = arrays
        self.whole = whole
        # Of the request if `whole`, else of one row.
        self.shapes = tuple([array.shape if whole else array.shape[1:] for array in arrays])
        self._raw: list[bytes | None] = [None] * len(arrays)

    def rows(self, index: int, first: int, end: int) -> NDArray[np.generic]:
        """The rows of an output from `first` up to, not including, `end`."""
        array = self.arrays[index]
        return array if self.whole else array[first:end]

    def raw(self, index: int, first: int, end: int) -> bytes:
        """The same rows as bytes, in row-major order."""
        raw = self._raw[index]
        if raw is None:
            raw = self._raw[index] = self.arrays[index].tobytes()
        if self.whole:
            return raw
        row_bytes = len(raw) // len(self.arrays[index])
        return raw[first * row_bytes : end * row_bytes]
