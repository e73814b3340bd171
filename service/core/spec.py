"""What a model version takes and returns, and how a backend runs it: plain data that every layer may hold."""

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
    """A tensor of a model. `shape` leaves the batch axis out where the model batches; -1 is a free axis.

    `labels` name the classes of an output, by class id, where its configuration has a label file.
    """

    name: str
    data_type: DataType
    shape: tuple[int, ...]
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)  # a version is itself: specs are looked up by identity, which is fast
class ModelSpec:
    """A version of a model. `max_batch_size` 0 means that it does not batch: shapes are whole, a request is a run."""

    name: str
    version: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    max_batch_size: int
    config: ModelConfig  # complete: what config.pbtxt leaves out is filled in from the graph

    @cached_property
    def all_outputs(self) -> RequestedOutputs:
        """Every output as it is: its index, and 0 for no classification."""
        return tuple((index, 0) for index in range(len(self.outputs)))

    @cached_property
    def batches(self) -> bool:
        """Whether the first axis of every tensor is the batch."""
        return self.max_batch_size > 0


class Outputs:
    """What a run gave, of which each request of the batch takes its rows; a tensor is made into bytes only once.

    `whole` says that the first axis is no batch, or none to be divided: the one request gets everything.
    """

    __slots__ = ("_raw", "arrays", "shapes", "whole")

    def __init__(self, arrays: Arrays, *, whole: bool) -> None:
        self.arrays = arrays
        self.whole = whole
        self.shapes = tuple([array.shape if whole else array.shape[1:] for array in arrays])  # of a request, or a row
        self._raw: list[bytes | None] = [None] * len(arrays)

    def rows(self, index: int, first: int, end: int) -> NDArray[np.generic]:
        """An output's rows from `first` up to `end`."""
        array = self.arrays[index]
        return array if self.whole else array[first:end]

    def raw(self, index: int, first: int, end: int) -> bytes:
        """The same as bytes, in C's order."""
        raw = self._raw[index]
        if raw is None:
            raw = self._raw[index] = self.arrays[index].tobytes()
        if self.whole:
            return raw
        row = len(raw) // len(self.arrays[index])
        return raw[first * row : end * row]
