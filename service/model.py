"""What a model version takes and gives, as plain data that every layer may hold."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from service.pb.model_config_pb2 import ModelConfig
from service.tensors import DataType

# The inputs or the outputs of a run, in the graph's order.
Arrays = tuple[NDArray[np.generic], ...]

# Outputs as they are asked for: index, and how many classes of it are wanted, 0 for the values themselves.
Wanted = tuple[tuple[int, int], ...]


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
    def all_outputs(self) -> Wanted:
        """Every output as it is: its index, and 0 for no classification."""
        return tuple((index, 0) for index in range(len(self.outputs)))

    @cached_property
    def batches(self) -> bool:
        """Whether the first axis of every tensor is the batch."""
        return self.max_batch_size > 0
