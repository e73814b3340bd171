"""What happens to a batch: it is run, its requests get each their own rows, and it is counted.

Owns isolation: a batch that fails is run again in parts until only the guilty request fails, one's trouble with its
answer is not its batch mates', and an engine that has failed must pass a probe before it goes on. Does not own: which
requests form a batch (queue.py) and when it starts (batcher.py).
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import structlog
from numpy.typing import NDArray

from service.batching.predictions import Predictions
from service.batching.queue import PendingRequest
from service.batching.statistics import Batch, Statistics
from service.core.batch_sizes import padded
from service.core.errors import EngineFailed, EngineLost, NotReady
from service.core.spec import Arrays, Backend, Outputs, Run

log = structlog.get_logger(__name__)

# An engine is probed at most once in so many seconds.
PROBE_SECONDS = 1.0


class BatchExecutor:
    """How one model version's batches are run.

    Every batch is filled up to the next of `sizes`, if there are any. `probe` is called with a backend's `run` after it
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
        self,
        backend: Backend,
        batch: Sequence[PendingRequest],
        closed_by: str,
        wait_turn: Callable[[], None] = lambda: None,
    ) -> None:
        """Run a batch, answer its requests and count it. `wait_turn` is called before the first answer leaves."""
        started = self._clock()
        rows = sum([request.rows for request in batch])
        padding = padded(rows, self._sizes) - rows
        try:
            inputs = _join(batch, padding, backend.input_buffers(rows + padding))
            gathered = self._clock()
            outputs = _checked(backend.run(inputs), batch, rows + padding)
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
                self._fail_alone(backend, batch[0], wait_turn)
                return
            log.warning("batch failed, bisecting", model=self._name, requests=len(batch))
            middle = len(batch) // 2
            self.execute(backend, batch[:middle], closed_by, wait_turn)
            self.execute(backend, batch[middle:], closed_by, wait_turn)
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

    def _fail_alone(self, backend: Backend, request: PendingRequest, wait_turn: Callable[[], None]) -> None:
        """Fail the request that the engine could not compute, and see whether the engine still can anything."""
        error = EngineFailed()
        log.exception("engine failed", model=self._name, error_id=error.error_id, rows=request.rows)
        wait_turn()
        request.fail(error)
        now = self._clock()
        if now < self._probed_at + PROBE_SECONDS:
            return  # requests made to fail must not cost a run each
        self._probed_at = now
        try:
            self._probe(backend.run)
        except Exception as failure:  # noqa: BLE001 # whatever it is, the engine is not what it was
            self._on_broken(f"the engine is broken: after a failure it cannot do what it could when loaded: {failure}")


def _join(batch: Sequence[PendingRequest], padding: int, buffers: Arrays | None) -> Arrays:
    """The inputs of all requests, one after the other, and `padding` times the last row, in `buffers` if there is any.

    A single request's are left where they are if that will do.
    """
    if buffers is None and len(batch) == 1 and not padding:
        return batch[0].inputs
    columns = zip(*[request.inputs for request in batch], strict=True)
    outs = buffers or [None] * len(batch[0].inputs)
    return tuple(
        np.concatenate([*parts, *[parts[-1][-1:]] * padding], out=out) for parts, out in zip(columns, outs, strict=True)
    )


def _checked(outputs: Sequence[NDArray[np.generic]], batch: Sequence[PendingRequest], rows: int) -> Arrays:
    """The outputs, if they can be divided among the requests."""
    if (len(batch) > 1 or rows > batch[0].rows) and any(len(output) != rows for output in outputs):
        raise ValueError(f"outputs of shapes {[output.shape for output in outputs]} for {rows} rows")
    return tuple(outputs)


def _answer(batch: Sequence[PendingRequest], outputs: Outputs) -> list[PendingRequest]:
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
            log.exception("response not encoded", error_id=error.error_id)
            request.fail(error)
        row = following
    return [request for request in prepared if _send(request)]  # at once, so that a front can write few packets


def _send(request: PendingRequest) -> bool:
    try:
        request.send()
    except Exception:
        log.exception("response not sent")
        return False
    return True
