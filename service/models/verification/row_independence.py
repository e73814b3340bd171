"""Finds out by trial whether rows are independent: whether a row has the same answer alone and in a batch.

Batching needs that, and a graph without golden answers does not promise it: its first axis may be time, or it may
normalise over the batch. So random rows are run alone and together, in every batch size. Two comparisons:

- a row in a batch of other rows, and in a batch of the same size with some rows replaced. Kernels are the same, so the
  answers must agree to within rounding;
- a row alone, and in a batch. Kernels may differ with the size, so the tolerance is wider.

Not here: the rows' values (trial_rows.py); golden answers, which are compared in every batch size (verifier.py);
what follows from a finding (opened_version.py).
"""

import itertools
import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.core.datatypes import BYTES
from service.core.spec import Arrays, ModelSpec, Run, TensorSpec
from service.models.verification.trial_rows import trial_rows
from service.models.verification.verifier import CannotRun, trial_run

# Different rows that are run alone. Larger batches repeat them.
MAX_ROWS = 8
# Largest batch in which rows are replaced: in larger ones it would only take time.
MAX_REPLACED = 4
# Sets of rows that are compared if all answers are equal, which tell little.
MAX_COMPARED = 2
# Equal runs of a batch whose answers differ from those of rows alone: a graph may draw random numbers, or keep state.
# Another difference counts if it is larger by the factor than the difference between equal runs.
REPEATS = 8
NOISE_FACTOR = 3.0
# Characters of an error of ONNX Runtime that a finding quotes.
MAX_TEXT = 300
# The least value that a difference is relative to.
SMALLEST = 0.01


@dataclass(frozen=True)
class Tolerance:
    """Largest difference between two answers, relative to the largest value of the row's output."""

    same_size: float
    other_size: float
    half: float  # lower bound of both for 16-bit floats, whose spacing at 1 is 1e-3 or 8e-3

    def of_same_size(self, tensor: TensorSpec) -> float:
        """For an output in batches of one size."""
        return max(self.same_size, self.half) if tensor.data_type.name in ("FP16", "BF16") else self.same_size

    def of_other_size(self, tensor: TensorSpec) -> float:
        """For an output in batches of different sizes."""
        return max(self.other_size, self.half) if tensor.data_type.name in ("FP16", "BF16") else self.other_size


ON_CPU = Tolerance(1e-5, 1e-3, 1e-2)
# TF32, which a GPU multiplies in, has a spacing of 1e-3 at 1.
ON_GPU = Tolerance(1e-5, 5e-3, 1e-2)
# With TensorRT in half precision.
IN_HALF_PRECISION = Tolerance(1e-5, 1e-2, 1e-2)
EXACT = Tolerance(0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Difference:
    """A difference between answers that should agree, and how large it is; infinite if not a number."""

    text: str
    distance: float


@dataclass(frozen=True)
class Finding:
    """Why rows depend on each other, or why that is not known; both are "" if rows are independent."""

    dependent: str = ""
    unknown: str = ""


def compare_rows(
    spec: ModelSpec, run: Run, sizes: Sequence[int], *, tolerance: Tolerance = ON_CPU, padded: bool = False
) -> Finding:
    """Run random rows alone and in batches of up to the largest of `sizes`, all of which are run.

    With `padded` every batch is padded to the largest size, with copies of its last row.

    Raises:
        GraphError: the engine is lost.
    """
    finding = Finding(unknown="it was not run")
    compared = 0
    count = min(MAX_ROWS, max(sizes))
    for rows in trial_rows(spec, count):
        trial = _Trial(spec, run, rows, count, padded_to=max(sizes) if padded else 0, tolerance=tolerance)
        try:
            trial.run_alone()
        except CannotRun as error:
            if not compared:
                finding = Finding(unknown=textwrap.shorten(str(error), MAX_TEXT))
            continue
        finding = trial.compare(sizes)
        compared += 1
        if finding.dependent or finding.unknown or trial.answers_vary() or compared == MAX_COMPARED:
            return finding
    return finding


class _Trial:
    """A number of random rows, and their answers."""

    def __init__(
        self, spec: ModelSpec, run: Run, rows: Arrays, count: int, *, padded_to: int, tolerance: Tolerance
    ) -> None:
        self._spec = spec
        self._run = run
        self._rows = rows
        self._count = count
        self._padded_to = padded_to
        self._tolerance = tolerance
        self._alone: list[Arrays] = []

    def run_alone(self) -> None:
        """Run each row by itself.

        Raises:
            CannotRun: the graph cannot run on one of the rows.
        """
        self._alone = [self._answers([index]) for index in range(self._count)]

    def answers_vary(self) -> bool:
        """Whether the rows' answers differ at all, without which they tell little."""
        return any(
            _distance(tensor, first, other) > 0
            for answers in self._alone[1:]
            for tensor, first, other in zip(self._spec.outputs, self._alone[0], answers, strict=True)
        )

    def compare(self, sizes: Sequence[int]) -> Finding:
        """Compare the answers of rows alone with their answers in batches."""
        for size in sorted({size for size in (*sizes, 2, 3) if 1 < size <= max(sizes)}):
            difference = self._compare_size(size)
            if difference:
                noise = self._noise(size)
                if noise > self._tolerance.same_size and difference.distance < NOISE_FACTOR * noise:
                    return Finding(unknown="its answers differ between two runs on the same rows")
                return Finding(dependent=difference.text)
        return Finding()

    def _compare_size(self, size: int) -> Difference | None:
        """The first difference in a batch of `size` rows."""
        order = [position % self._count for position in range(size)]
        try:
            batch = self._answers(order)
            replaced = batch
            if size <= MAX_REPLACED:
                replaced = self._answers([(row + (i < size // 2)) % self._count for i, row in enumerate(order)])
        except CannotRun as error:
            text = textwrap.shorten(str(error), MAX_TEXT)
            return Difference(f"rows that run alone do not run in a batch of {size}: {text}", math.inf)
        for index, tensor in enumerate(self._spec.outputs):
            output, shape = f"output {tensor.name!r}", batch[index].shape
            if shape[:1] != (size,) or self._alone[0][index].shape[:1] != (1,):
                return Difference(f"{output} has shape {list(shape)} for {size} rows", math.inf)
            distance = max(
                _distance(tensor, self._alone[row][index], batch[index][position : position + 1])
                for position, row in enumerate(order)
            )
            if distance > self._tolerance.of_other_size(tensor):
                text = f"{output} of a row differs between the row alone and in a batch of {size}"
                return Difference(text, distance)
            kept = slice(size // 2, None)
            distance = _distance(tensor, batch[index][kept], replaced[index][kept])
            if distance > self._tolerance.of_same_size(tensor):
                return Difference(f"{output} of a row changes with the other rows in a batch of {size}", distance)
        return None

    def _noise(self, size: int) -> float:
        """The largest distance between the answers of two equal batches, one after the other."""
        order = [position % self._count for position in range(size)]
        try:
            runs = [self._answers(order) for _ in range(REPEATS)]
        except CannotRun:
            return 0.0
        return max(
            _distance(tensor, a, b)
            for before, after in itertools.pairwise(runs)
            for tensor, a, b in zip(self._spec.outputs, before, after, strict=True)
        )

    def _answers(self, order: Sequence[int]) -> Arrays:
        """The answers of a batch of these rows, by index."""
        padding = [order[-1]] * (self._padded_to - len(order))
        answers = trial_run(self._run, tuple(array[[*order, *padding]] for array in self._rows))
        return tuple(array[: len(order)] if padding and array.ndim else array for array in answers)


def _distance(tensor: TensorSpec, a: NDArray[np.generic], b: NDArray[np.generic]) -> float:
    """The largest difference between two answers, relative to the largest value of the row. NaN equals NaN."""
    if a.shape != b.shape:
        return math.inf
    if tensor.data_type is BYTES:
        return 0.0 if (a == b).all() else math.inf
    if a.size == 0:
        return 0.0
    x, y = (_numbers(tensor, array).reshape(len(array) if array.ndim else 1, -1) for array in (a, b))
    largest = np.abs(np.where(np.isfinite(x), x, 0)).max(axis=1, keepdims=True, initial=SMALLEST)
    with np.errstate(invalid="ignore"):  # inf - inf
        equal = (x == y) | (np.isnan(x) & np.isnan(y))
        distances = np.where(equal, 0.0, np.abs(x - y) / largest)
    return float(np.where(np.isnan(distances), math.inf, distances).max(initial=0.0))


def _numbers(tensor: TensorSpec, array: NDArray[np.generic]) -> NDArray[np.float64]:
    if tensor.data_type.name == "BF16":  # held as its bits, which are the upper half of FP32's
        array = (array.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return array.astype(np.float64)
