"""Runs batches in a few fixed sizes, each with preallocated memory that is bound to the session once (IO binding).

Owns the bindings of one engine: one for each batch size, padding up to that size, and copying rows in and answers out.
A GPU needs this: its libraries prepare for every new shape, fast copies need page-locked memory, and a captured CUDA
graph replays on the addresses of its capture. Not here: how a binding is made (cuda.py; in tests, a fake).
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from service.core.batch_sizes import padded
from service.core.spec import Arrays


class Binding(Protocol):
    """Memory for one batch size, on the host and on the device, bound to the session."""

    inputs: Arrays  # on the host; run() reads them

    def run(self) -> Sequence[NDArray[np.generic]]:
        """Copy the inputs to the device, compute, and copy the outputs to new arrays."""


class BatchBindings:
    """The bindings of one engine, which runs one batch at a time. `bind` makes the binding for a number of rows."""

    def __init__(self, sizes: Sequence[int], bind: Callable[[int], Binding]) -> None:
        self.sizes = sorted(sizes)
        self._bind = bind
        self._bindings: dict[int, Binding] = {}

    def input_buffers(self, rows: int) -> Arrays | None:
        """The input arrays of the binding with exactly `rows` rows, for the caller to fill; None if there is none."""
        return self._binding(rows).inputs if rows in self.sizes else None

    def run(self, inputs: Arrays) -> Sequence[NDArray[np.generic]]:
        """The outputs. Inputs outside the binding's arrays are copied into them, padded with the last row.

        Raises:
            ValueError: the inputs have more rows than the largest size.
        """
        rows = len(inputs[0])
        size = padded(rows, self.sizes)
        if not 1 <= rows <= self.sizes[-1]:
            raise ValueError(f"{rows} rows, but the sizes are {self.sizes}")
        binding = self._binding(size)
        for buffer, array in zip(binding.inputs, inputs, strict=True):
            if array is not buffer:
                buffer[:rows] = array
                buffer[rows:] = array[-1:]
        outputs = binding.run()
        return outputs if rows == size else [output[:rows] for output in outputs]

    def _binding(self, size: int) -> Binding:
        binding = self._bindings.get(size)
        if binding is None:
            binding = self._bindings[size] = self._bind(size)
        return binding
