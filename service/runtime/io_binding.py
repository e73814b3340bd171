"""Batches of a few sizes only, each with memory of its own that is bound to the graph once and used again and again.

Owns, for one engine: which sizes there are, the binding of each, and getting rows in and answers out of it. A GPU wants
all three: its libraries prepare for every new shape, copies need page-locked memory, and a captured graph replays on
the addresses that it was captured with. Does not own: how a binding is made (cuda.py; in tests, a fake).
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from service.core.batch_sizes import padded
from service.core.spec import Arrays


class Binding(Protocol):
    """One batch size: memory on the host and on the device, and the graph between its inputs and outputs."""

    inputs: Arrays  # on the host; what lies there when it is run is computed

    def run(self) -> Sequence[NDArray[np.generic]]:
        """Copy the inputs over, compute, and copy the outputs back, to arrays that later runs leave alone."""


class BatchBindings:
    """The bindings of one engine, which runs one batch at a time. `bind` makes one for so many rows."""

    def __init__(self, sizes: Sequence[int], bind: Callable[[int], Binding]) -> None:
        self.sizes = sorted(sizes)
        self._bind = bind
        self._bindings: dict[int, Binding] = {}

    def input_buffers(self, rows: int) -> Arrays | None:
        """The inputs of the binding with exactly so many rows, to put them together in; None if there is none."""
        return self._binding(rows).inputs if rows in self.sizes else None

    def run(self, inputs: Arrays) -> Sequence[NDArray[np.generic]]:
        """The outputs. Inputs that do not lie in a room are copied to one, with the last row repeated to fill it.

        Raises:
            ValueError: there is no size for so many rows.
        """
        rows = len(inputs[0])
        size = padded(rows, self.sizes)
        if not 1 <= rows <= self.sizes[-1]:
            raise ValueError(f"{rows} rows, but the sizes are {self.sizes}")
        binding = self._binding(size)
        for room, given in zip(binding.inputs, inputs, strict=True):
            if given is not room:
                room[:rows] = given
                room[rows:] = given[-1:]
        outputs = binding.run()
        return outputs if rows == size else [output[:rows] for output in outputs]

    def _binding(self, size: int) -> Binding:
        binding = self._bindings.get(size)
        if binding is None:
            binding = self._bindings[size] = self._bind(size)
        return binding
