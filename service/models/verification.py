"""Whether an engine gives the right answers: golden samples, warm-up, and what a batch does to an answer.

Owns running an engine before and beside the traffic: proving every batch size when a version is loaded, which also
warms it up; measuring how far an answer depends on its batch mates; probing an engine that has failed.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import structlog
from numpy.typing import NDArray

from service.core.datatypes import BYTES
from service.core.errors import ConfigurationError, EngineLost, FilesError, GoldenMismatch, GraphError, LoadError
from service.core.spec import Arrays, ModelSpec, Run

log = structlog.get_logger(__name__)

# Runs of one size of which the middle time is reported.
TIMED_RUNS = 5


class CannotRun(GraphError):
    """The graph does not run on certain inputs."""


@dataclass(frozen=True)
class Verifier:
    """What an engine must do: answer `golden` within `tolerance`, in batches of `sizes` rows.

    Without golden answers it is warmed up with zeros. A graph that can do nothing with them may still be good, which
    only its maker knows; one that runs must answer a row for a row. `strict` asks for the same bits alone and in
    company.
    """

    spec: ModelSpec
    golden: Mapping[str, NDArray[np.generic]]
    tolerance: float
    sizes: Sequence[int]
    strict: bool = False

    def verify(self, run: Run) -> float | None:
        """Run every size. Returns the largest difference between a sample's answers alone and in company, if known.

        Raises:
            LoadError: an answer differs by more than the tolerance, or in its label, or the graph cannot be run.
        """
        if not self.golden:
            try:
                for size in self.sizes:
                    self._run_zeros(run, size)
            except CannotRun as error:
                log.warning("model not warmed up", model=self.spec.name, version=self.spec.version, reason=str(error))
            return None
        samples = self._samples()
        single = [self._answer(run, np.full(self.sizes[0], sample)) for sample in range(samples)]
        alone = [np.stack([answers[index][0] for answers in single]) for index in range(len(self.spec.outputs))]
        gap = 0.0
        for size in self.sizes:
            for shift in (0, 1, size // 2) if self.strict else (0,):
                pick = (np.arange(max(size, samples)) + shift) % samples  # every sample in every size
                for start in range(0, len(pick) - size + 1, size):
                    rows = pick[start : start + size]
                    company = self._answer(run, rows)
                    gap = max([gap, *(_gap(one[rows], other) for one, other in zip(alone, company, strict=True))])
        if self.strict and gap:
            raise ConfigurationError(
                f"strict asks for the same bits alone and in company, but answers of this graph on this device differ "
                f"by up to {gap:.1e}; remove the parameter, or try another max_batch_size"
            )
        return gap

    def probe(self, run: Run) -> None:
        """Run the smallest size once, golden answers being what shows that an engine is what it was.

        Raises:
            LoadError: as prove().
        """
        if self.golden:
            self._answer(run, np.zeros(self.sizes[0], np.int64))

    def seconds(self, run: Run, size: int) -> float:
        """The middle time of a few runs of that many rows.

        Raises:
            CannotRun: there are no golden inputs, and zeros mean nothing to the graph.
        """
        if self.golden:
            rows = np.arange(size) % self._samples()
            inputs = tuple(self.golden[tensor.name][rows] for tensor in self.spec.inputs)
        else:
            inputs = self._zeros(size)
        times = []
        for _ in range(TIMED_RUNS):
            started = time.perf_counter()
            _run(run, inputs)
            times.append(time.perf_counter() - started)
        return sorted(times)[TIMED_RUNS // 2]

    def _samples(self) -> int:
        names = [tensor.name for tensor in (*self.spec.inputs, *self.spec.outputs)]
        absent = [name for name in names if name not in self.golden]
        if absent:
            raise FilesError(f"golden.npz holds {sorted(self.golden)}, but not {absent[0]!r}")
        samples = min(len(self.golden[name]) for name in names)
        if samples == 0:
            raise LoadError("golden.npz holds no samples")
        return samples

    def _answer(self, run: Run, rows: NDArray[np.int64]) -> Sequence[NDArray[np.generic]]:
        """The answers to the golden samples of those numbers, which must hold."""
        answers = _run(run, tuple(self.golden[tensor.name][rows] for tensor in self.spec.inputs))
        for tensor, answer in zip(self.spec.outputs, answers, strict=True):
            _compare(tensor.name, self.golden[tensor.name][rows], answer, rows, self.tolerance)
        return answers

    def _run_zeros(self, run: Run, size: int) -> None:
        """Run zeros, so that no request is the first; free axes get size 1."""
        answers = _run(run, self._zeros(size))
        for tensor, answer in zip(self.spec.outputs, answers, strict=True):
            if self.spec.batches and (answer.ndim == 0 or len(answer) != size):
                raise ConfigurationError(
                    f"output {tensor.name!r} has shape {list(answer.shape)} for {size} rows; "
                    "a model that batches answers a row for a row: set max_batch_size to 0"
                )

    def _zeros(self, size: int) -> Arrays:
        lead = (size,) if self.spec.batches else ()
        return tuple(
            np.full(
                (*lead, *(1 if axis == -1 else axis for axis in tensor.shape)),
                "" if tensor.data_type is BYTES else 0,
                tensor.data_type.dtype,
            )
            for tensor in self.spec.inputs
        )


def _compare(
    name: str, expected: NDArray[np.generic], answer: NDArray[np.generic], rows: NDArray[np.int64], tolerance: float
) -> None:
    if expected.shape != answer.shape:
        raise GoldenMismatch(f"golden {name!r} has shape {list(expected.shape)}, the engine gives {list(answer.shape)}")
    gap = np.abs(expected.astype(np.float64) - answer.astype(np.float64)).reshape(len(rows), -1)
    flips = expected.reshape(len(rows), -1).argmax(1) != answer.reshape(len(rows), -1).argmax(1)
    worst = int(gap.max(1).argmax())
    if not gap.max() <= tolerance or flips.any():  # "not <=" so that NaN fails
        sample = int(rows[int(flips.argmax()) if flips.any() else worst])
        raise GoldenMismatch(
            f"the golden answers do not hold at batch size {len(rows)}: {name!r} differs by {gap.max():.2e}, allowed "
            f"{tolerance:.0e}, and {int(flips.sum())} of {len(rows)} labels differ, first at sample {sample}"
        )


def _gap(one: NDArray[np.generic], other: NDArray[np.generic]) -> float:
    """The largest difference between two outputs."""
    return float(np.abs(one.astype(np.float64) - other.astype(np.float64)).max(initial=0.0))


def _run(run: Run, inputs: Arrays) -> Sequence[NDArray[np.generic]]:
    try:
        return run(inputs)
    except EngineLost as error:
        raise GraphError(f"the engine is lost: {error}") from error
    except Exception as error:
        shapes = ", ".join(str(list(array.shape)) for array in inputs)
        raise CannotRun(f"the graph cannot be run on inputs of shape {shapes}: {error}") from error
