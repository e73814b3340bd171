"""What happens to a batch: it is run, its requests get each their own rows, and it is counted.

Owns isolation: a batch that fails is run again in parts until only the guilty request fails, one's trouble with its
answer is not its batch mates', and an engine that has failed must pass a probe before it goes on. Does not own: which
requests form a batch (queue.py) and when it starts (batcher.py).
"""

import math
import threading
from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import structlog
from numpy.typing import NDArray

from service.errors import EngineFailed, NotReady
from service.model import Arrays, Outputs
from service.predictions import Predictions
from service.queue import Request
from service.statistics import Batch, Statistics

# Computes the outputs of some rows.
Run = Callable[[Arrays], Sequence[NDArray[np.generic]]]


class Runner(Protocol):
    """What computes batches, one at a time: an engine, or a test's stand-in."""

    def run(self, inputs: Arrays) -> Sequence[NDArray[np.generic]]:
        """The outputs of some rows; arrays that later runs leave alone."""

    def room(self, rows: int) -> Arrays | None:
        """Where inputs of so many rows are best put together before they are run, if that matters to it."""


class EngineLost(Exception):
    """Raised by a run that will never work again, for whatever inputs; the message says why."""


log = structlog.get_logger(__name__)

# An engine is probed at most once in so many seconds.
PROBE_SECONDS = 1.0


class Execution:
    """How one model version's batches are run.

    Every batch is filled up to the next of `sizes`, if there are any. `probe` is called with a runner's `run` after it
    failed on a single request, and raises if it is broken for good, which `on_broken` is then told with the reason.
    """

    def __init__(
        self,
        statistics: Statistics,
        *,
        name: str,
        clock: Callable[[], float],
        sizes: Sequence[int] = (),
        predictions: Predictions | None = None,
        probe: Callable[[Run], None] = lambda _: None,
        on_broken: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._statistics = statistics
        self._predictions = predictions
        self._name = name
        self._clock = clock
        self._sizes = sizes
        self._probe = probe
        self._on_broken = on_broken
        self._probed_at = -math.inf

    def execute(
        self, runner: Runner, batch: Sequence[Request], closed_by: str, wait_turn: Callable[[], None] = lambda: None
    ) -> None:
        """Run a batch, answer its requests and count it. `wait_turn` is called before the first answer leaves."""
        started = self._clock()
        rows = sum([request.rows for request in batch])
        padding = padded(rows, self._sizes) - rows
        try:
            inputs = _join(batch, padding, runner.room(rows + padding))
            gathered = self._clock()
            outputs = _checked(runner.run(inputs), batch, rows + padding)
            computed = self._clock()
        except EngineLost as error:
            reason = f"the engine is lost: {error}"
            self._on_broken(reason)
            wait_turn()
            for request in batch:
                request.fail(NotReady(f"model {self._name!r}: {reason}"))
            return
        except Exception:  # noqa: BLE001 # _fail_alone logs it
            if len(batch) == 1:
                self._fail_alone(runner, batch[0], wait_turn)
                return
            log.warning("a batch failed; it is run again in parts", model=self._name, requests=len(batch))
            middle = len(batch) // 2
            self.execute(runner, batch[:middle], closed_by, wait_turn)
            self.execute(runner, batch[middle:], closed_by, wait_turn)
            return
        # From here on nothing may lead to a second run: some may have their answers already.
        wait_turn()
        answered = _answer(batch, Outputs(outputs, whole=len(batch) == 1 and not padding))
        ended = self._clock()
        self._statistics.batch(
            Batch(
                rows=rows,
                padding=padding,
                closed_by=closed_by,
                queued=[started - request.arrived for request in answered],
                total=[ended - request.arrived for request in answered],
                gather=gathered - started,
                compute=computed - gathered,
                scatter=ended - computed,
            )
        )
        if self._predictions:
            self._predictions.add(outputs, rows)

    def _fail_alone(self, runner: Runner, request: Request, wait_turn: Callable[[], None]) -> None:
        """Fail the request that the engine could not compute, and see whether the engine still can anything."""
        error = EngineFailed()
        log.exception("the engine failed", model=self._name, error_id=error.error_id, rows=request.rows)
        wait_turn()
        request.fail(error)
        now = self._clock()
        if now < self._probed_at + PROBE_SECONDS:
            return  # requests made to fail must not cost a run each
        self._probed_at = now
        try:
            self._probe(runner.run)
        except Exception as failure:  # noqa: BLE001 # whatever it is, the engine is not what it was
            self._on_broken(f"the engine is broken: after a failure it cannot do what it could when loaded: {failure}")


class Turnstile:
    """Lets batches through in the order of their tickets, which are numbered from 0."""

    def __init__(self) -> None:
        self._given = 0
        self._next = 0
        self._moved = threading.Condition()

    def ticket(self) -> int:
        """The next number; the caller sees to it that batches ask in their order."""
        self._given += 1
        return self._given - 1

    def wait(self, ticket: int) -> None:
        """Wait until all before have passed."""
        with self._moved:
            self._moved.wait_for(lambda: self._next == ticket)

    def passed(self) -> None:
        """The batch whose turn it was is through."""
        with self._moved:
            self._next += 1
            self._moved.notify_all()


def padded(rows: int, sizes: Sequence[int]) -> int:
    """The first of the sizes, which ascend, that has room for so many rows; as many rows if none has."""
    place = bisect_left(sizes, rows)
    return sizes[place] if place < len(sizes) else rows


def _join(batch: Sequence[Request], padding: int, room: Arrays | None) -> Arrays:
    """The inputs of all requests, one after the other, and `padding` times the last row, in `room` if there is any.

    A single request's are left where they are if that will do.
    """
    if room is None and len(batch) == 1 and not padding:
        return batch[0].inputs
    columns = zip(*[request.inputs for request in batch], strict=True)
    outs = room or [None] * len(batch[0].inputs)
    return tuple(
        np.concatenate([*parts, *[parts[-1][-1:]] * padding], out=out) for parts, out in zip(columns, outs, strict=True)
    )


def _checked(outputs: Sequence[NDArray[np.generic]], batch: Sequence[Request], rows: int) -> Arrays:
    """The outputs, if they can be divided among the requests."""
    if (len(batch) > 1 or rows > batch[0].rows) and any(len(output) != rows for output in outputs):
        raise ValueError(f"outputs of shapes {[output.shape for output in outputs]} for {rows} rows")
    return tuple(outputs)


def _answer(batch: Sequence[Request], outputs: Outputs) -> list[Request]:
    """Give each request its rows; those that got them. One's trouble is not its batch mates'."""
    prepared = []
    row = 0
    for request in batch:
        following = row + request.rows
        try:
            request.prepare(outputs, row, following)
            prepared.append(request)
        except Exception:
            error = EngineFailed()
            log.exception("an answer could not be built", error_id=error.error_id)
            request.fail(error)
        row = following
    return [request for request in prepared if _send(request)]  # at once, so that a front can write few packets


def _send(request: Request) -> bool:
    try:
        request.send()
    except Exception:
        log.exception("an answer could not be sent")
        return False
    return True
