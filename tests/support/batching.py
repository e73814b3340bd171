"""What the batcher's tests need: requests that keep what they are given, an engine that is held, and a clock."""

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
    """A request of `rows` rows, all of value `value`, that keeps what it is given."""

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
        """Its rows of the only output; waits."""
        assert self.done.wait(WAIT), "never answered"
        assert self.outputs is not None, self.error
        return self.outputs[0]

    def failure(self) -> ServiceError:
        """Its error; waits."""
        assert self.done.wait(WAIT), "never answered"
        assert self.error is not None, "it was answered"
        return self.error


@dataclass(frozen=True)
class Computing:
    """An engine that is one function."""

    run: Run

    def input_buffers(self, rows: int) -> None:
        """Inputs may be put together anywhere."""


class HeldEngine:
    """Negates its input, one run at a time, each when it is let; a value of 666 makes it fail."""

    def __init__(self) -> None:
        self.batches: list[list[float]] = []  # the values of each run's rows
        self._permits = threading.Semaphore(0)
        self._begun = threading.Condition()

    def run(self, inputs: Arrays) -> Sequence[NDArray[np.generic]]:
        """The negatives, once the test lets it."""
        (x,) = inputs
        with self._begun:
            self.batches.append([float(value) for value in x[:, 0]])
            self._begun.notify_all()
        assert self._permits.acquire(timeout=WAIT)
        if (x == 666).any():
            raise RuntimeError("the number of the beast")
        return [np.negative(x)]

    def input_buffers(self, rows: int) -> None:
        """Inputs may be put together anywhere."""

    def let(self, runs: int) -> None:
        """Let that many runs end."""
        for _ in range(runs):
            self._permits.release()

    def wait_for(self, runs: int) -> None:
        """Wait until that many have begun."""
        with self._begun:
            assert self._begun.wait_for(lambda: len(self.batches) >= runs, WAIT), f"{runs} runs never began"


class Clock:
    """Time that moves when the test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def busy(batcher: Batcher, engine: HeldEngine) -> FakeRequest:
    """Occupy the engine with one row, so that what follows waits."""
    request = FakeRequest(0)
    batcher.submit(request)
    engine.wait_for(1)
    return request
