"""Verifies that an engine gives the right answers: golden answers, warm-up, and the effect of batching on an answer.

Owns the runs of an engine that no request asked for: every batch size once at load, which also warms it up, the
largest difference between an answer alone and in a batch, the probe of an engine after a failure, and timing. Not here:
reading the golden answers (repository/), comparing rows without them (row_independence.py), the batches of requests
(batching/).
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import structlog
from numpy.typing import NDArray

from service.core.datatypes import BYTES
from service.core.errors import EngineLost
from service.core.load_errors import ConfigurationError, GoldenMismatch, GraphError
from service.core.spec import Arrays, ModelSpec, Run
from service.models.repository.golden_file import count_samples

log = structlog.get_logger(__name__)

# Runs of a batch size; the median time is reported.
TIMED_RUNS = 5


class CannotRun(GraphError):
    """The graph cannot run on the inputs that it was given."""


@dataclass(frozen=True)
class Verifier:
    """Checks an engine against golden answers, within `tolerance`, in batches of `sizes` rows.

    Without golden answers it only warms the engine up, with zeros, so that no request waits for it. A graph that cannot
    run on zeros is accepted: it may need other values. `strict` requires that an answer has the same bits alone and in
    a batch.
    """

    spec: ModelSpec
    golden: Mapping[str, NDArray[np.generic]]
    tolerance: float
    sizes: Sequence[int]
    strict: bool = False

    def verify(self, run: Run) -> float | None:
        """Run every size and compare the answers with the golden answers.

        Returns the largest |difference| between an answer alone and in a batch; None without golden answers.

        Raises:
            LoadError: an answer differs by more than the tolerance, or in its label, or the graph cannot run.
        """
        if not self.golden:
            try:
                for size in self.sizes:
                    trial_run(run, self._zeros(size))
            except CannotRun as error:
                log.warning("model not warmed up", model=self.spec.name, version=self.spec.version, reason=str(error))
            return None
        samples = self._samples()
        runs = [self._run_golden(run, np.full(self.sizes[0], sample)) for sample in range(samples)]
        alone = [np.stack([answers[index][0] for answers in runs]) for index in range(len(self.spec.outputs))]
        max_diff = 0.0
        for size in self.sizes:
            for shift in (0, 1, size // 2) if self.strict else (0,):
                order = (np.arange(max(size, samples)) + shift) % samples  # every sample in every size
                for start in range(0, len(order) - size + 1, size):
                    rows = order[start : start + size]
                    batched = self._run_golden(run, rows)
                    diffs = [_max_abs_diff(a[rows], b) for a, b in zip(alone, batched, strict=True)]
                    max_diff = max([max_diff, *diffs])
        if self.strict and max_diff:
            raise ConfigurationError(
                f"the parameter strict requires the same bits alone and in a batch, but answers of this graph on this "
                f"device differ by up to {max_diff:.1e}; remove the parameter, or try another max_batch_size"
            )
        return max_diff

    def probe(self, run: Run) -> None:
        """Run the smallest size once and compare it with the golden answers; without them, nothing can be checked.

        Raises:
            LoadError: as verify().
        """
        if self.golden:
            self._run_golden(run, np.zeros(self.sizes[0], np.int64))

    def time_run(self, run: Run, size: int) -> float:
        """The median time of a run of `size` rows, in seconds.

        Raises:
            CannotRun: there are no golden inputs, and the graph cannot run on zeros.
        """
        if self.golden:
            rows = np.arange(size) % self._samples()
            inputs = tuple(self.golden[tensor.name][rows] for tensor in self.spec.inputs)
        else:
            inputs = self._zeros(size)
        times = []
        for _ in range(TIMED_RUNS):
            started = time.perf_counter()
            trial_run(run, inputs)
            times.append(time.perf_counter() - started)
        return sorted(times)[TIMED_RUNS // 2]

    @property
    def samples_differ(self) -> bool:
        """Whether there are different golden samples: batches of equal rows do not show that rows are independent."""
        inputs = [self.golden[tensor.name] for tensor in self.spec.inputs]
        return any((array[1:] != array[:1]).any() for array in inputs)

    def _samples(self) -> int:
        """The number of golden samples."""
        return count_samples(self.golden, self.spec)

    def _run_golden(self, run: Run, rows: NDArray[np.int64]) -> Sequence[NDArray[np.generic]]:
        """Run a batch of these golden samples, by index, and compare the answers."""
        answers = trial_run(run, tuple(self.golden[tensor.name][rows] for tensor in self.spec.inputs))
        for tensor, answer in zip(self.spec.outputs, answers, strict=True):
            _compare(tensor.name, self.golden[tensor.name][rows], answer, rows, self.tolerance)
        return answers

    def _zeros(self, size: int) -> Arrays:
        """Inputs of zeros or empty strings; free axes get length 1."""
        batch_axis = (size,) if self.spec.batches else ()
        return tuple(
            np.full(
                (*batch_axis, *(1 if axis == -1 else axis for axis in tensor.shape)),
                "" if tensor.data_type is BYTES else 0,
                tensor.data_type.dtype,
            )
            for tensor in self.spec.inputs
        )


def _compare(
    name: str, expected: NDArray[np.generic], answer: NDArray[np.generic], rows: NDArray[np.int64], tolerance: float
) -> None:
    """Compare one output of the golden samples `rows` with the golden answer.

    Raises:
        GoldenMismatch: a value differs by more than `tolerance`, or the class with the highest value differs.
    """
    if expected.shape != answer.shape:
        raise GoldenMismatch(
            f"golden {name!r} has shape {list(expected.shape)}, the engine returns {list(answer.shape)}"
        )
    diff = np.abs(expected.astype(np.float64) - answer.astype(np.float64)).reshape(len(rows), -1)
    label_differs = expected.reshape(len(rows), -1).argmax(1) != answer.reshape(len(rows), -1).argmax(1)
    worst = int(diff.max(1).argmax())
    if not diff.max() <= tolerance or label_differs.any():  # "not <=" so that NaN fails
        sample = int(rows[int(label_differs.argmax()) if label_differs.any() else worst])
        raise GoldenMismatch(
            f"golden mismatch at batch size {len(rows)}: {name!r} differs by {diff.max():.2e}, the tolerance is "
            f"{tolerance:.0e}, and {int(label_differs.sum())} of {len(rows)} labels differ, first at sample {sample}"
        )


def _max_abs_diff(a: NDArray[np.generic], b: NDArray[np.generic]) -> float:
    return float(np.abs(a.astype(np.float64) - b.astype(np.float64)).max(initial=0.0))


def trial_run(run: Run, inputs: Arrays) -> Sequence[NDArray[np.generic]]:
    """Run an engine on inputs that no request sent.

    Raises:
        CannotRun: ONNX Runtime refuses the inputs.
        GraphError: the engine is lost.
    """
    try:
        return run(inputs)
    except EngineLost as error:
        raise GraphError(f"the engine is lost: {error}") from error
    except Exception as error:
        shapes = ", ".join(str(list(array.shape)) for array in inputs)
        raise CannotRun(f"the graph cannot run on inputs of shape {shapes}: {error}") from error
