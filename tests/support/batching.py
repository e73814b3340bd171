"""Fakes for the batcher's tests: a request that records its outcome, engines, and a clock."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.batching.batcher import Batcher
from service.batching.queue import PendingRequest
from service.core.errors import ServiceError
from service.core.spec import Arrays, Outputs, Run
from tests.support.waiting import WAIT


class FakeRequest(PendingRequest):
    """A request of `rows` rows, all of value `value`, that records its outputs or its error."""

    __slots__ = ("done", "error", "outputs")

    def __init__(
        self,
        value: float,
        rows: int = 1,
        *,
        arrived: float = 0.0,
        deadline: float | None = None,
        width: int = 2,
        timeout: float = 0.0,
        priority: int = 0,
    ) -> None:
        inputs = (np.full((rows, width), value),)
        super().__init__(inputs, rows, arrived=arrived, deadline=deadline, timeout=timeout, priority=priority)
        self.outputs: Arrays | None = None
        self.error: ServiceError | None = None
        self.done = threading.Event()

    def prepare(self, outputs: Outputs, first: int, end: int) -> None:
        assert self.outputs is None, "answered twice"
        self.outputs = tuple(outputs.rows(index, first, end) for index in range(len(outputs.arrays)))

    def send(self) -> None:
        assert not self.done.is_set(), "answered twice"
        self.done.set()

    def fail(self, error: ServiceError) -> None:
        assert not self.done.is_set(), "answered twice"
        self.error = error
        self.done.set()

    def result(self) -> NDArray[np.generic]:
        """Wait for the answer and return its rows of the only output."""
        assert self.done.wait(WAIT), "never answered"
        assert self.outputs is not None, self.error
        return self.outputs[0]

    def failure(self) -> ServiceError:
        """Wait for the error and return it."""
        assert self.done.wait(WAIT), "never answered"
        assert self.error is not None, "answered instead of failed"
        return self.error


@dataclass(frozen=True)
class FunctionEngine:
    """An engine that calls a function."""

    run: Run

    def input_buffers(self, rows: int) -> None:
        """No preference: the executor allocates the inputs."""


class BlockingEngine:
    """Negates its input. Each run blocks until the test releases it; a run with the value 666 fails."""

    def __init__(self) -> None:
        self.batches: list[list[float]] = []  # the values of the rows of each run
        self._permits = threading.Semaphore(0)
        self._started = threading.Condition()

    def run(self, inputs: Arrays) -> Sequence[NDArray[np.generic]]:
        """Return the negated input after the test releases the run."""
        (x,) = inputs
        with self._started:
            self.batches.append([float(value) for value in x[:, 0]])
            self._started.notify_all()
        assert self._permits.acquire(timeout=WAIT)
        if (x == 666).any():
            raise RuntimeError("the input holds 666")
        return [np.negative(x)]

    def input_buffers(self, rows: int) -> None:
        """No preference: the executor allocates the inputs."""

    def release(self, runs: int) -> None:
        """Let `runs` runs end."""
        for _ in range(runs):
            self._permits.release()

    def wait_for_runs(self, runs: int) -> None:
        """Wait until `runs` runs have started."""
        with self._started:
            assert self._started.wait_for(lambda: len(self.batches) >= runs, WAIT), f"never started: {runs} runs"


class FakeClock:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def occupy(batcher: Batcher, engine: BlockingEngine) -> FakeRequest:
    """Occupy the engine with a request of one row, so that later requests are queued."""
    request = FakeRequest(0)
    batcher.submit(request)
    engine.wait_for_runs(1)
    return request
