"""Executes a batch: join the inputs, run the backend, give each request its rows, update the statistics.

Owns failure isolation: a batch that fails is bisected and run again until only the requests that cause the failure
fail; a response that cannot be encoded or sent affects no other request; an engine that failed is probed.
Not here: batch composition (queue.py), when a batch starts (batcher.py).
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import structlog
from numpy.typing import NDArray

from service.batching.predictions import Predictions
from service.batching.queue import PendingRequest
from service.batching.statistics import ExecutedBatch, Statistics
from service.core.batch_sizes import padded
from service.core.errors import EngineFailed, EngineLost, NotReady
from service.core.spec import Arrays, Backend, Outputs, Run

log = structlog.get_logger(__name__)

# Minimum seconds between two probes, so that a caller cannot cause one probe for each bad request.
PROBE_SECONDS = 1.0


class BatchExecutor:
    """Runs the batches of one model version.

    Every batch is padded to the next of `sizes`, if any are given. After a single request failed, `probe` is called
    with the backend's `run` and raises if the engine is broken; then `on_broken` is called with the reason.
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
        """Run a batch, answer its requests and count it. `wait_turn` is called before the first response is sent."""
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
                request.refuse(NotReady(f"model {self._name!r}: {reason}"))
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
        # From here on the batch must not run again: some requests may already be answered.
        wait_turn()
        encoded = _encode(batch, Outputs(outputs, whole=len(batch) == 1 and not padding))
        ended = self._clock()
        # Recorded before the responses are sent, so that a client that has its answer finds it counted.
        self._statistics.record_batch(
            ExecutedBatch(
                rows=rows,
                padding=padding,
                closed_by=closed_by,
                queued=[started - request.arrived for request in encoded],
                total=[ended - request.arrived for request in encoded],
                gather=gathered - started,
                compute=computed - gathered,
                scatter=ended - computed,
            )
        )
        if self._predictions:
            self._predictions.add(outputs, rows)
        for request in encoded:  # in one burst, so that the server writes few packets
            request.answer()
        self._statistics.tally()

    def _fail_alone(self, backend: Backend, request: PendingRequest, wait_turn: Callable[[], None]) -> None:
        """Fail a request that failed in a batch of its own, and probe the engine."""
        error = EngineFailed()
        log.exception("engine failed", model=self._name, error_id=error.error_id, rows=request.rows)
        wait_turn()
        request.refuse(error)
        now = self._clock()
        if now < self._probed_at + PROBE_SECONDS:
            return
        self._probed_at = now
        try:
            self._probe(backend.run)
        except Exception as failure:  # noqa: BLE001 # any failure of the probe means that the engine is broken
            self._on_broken(f"the engine is broken: a request failed, then the probe failed: {failure}")


def _join(batch: Sequence[PendingRequest], padding: int, buffers: Arrays | None) -> Arrays:
    """Concatenate the inputs of all requests and `padding` copies of the last row, into `buffers` if given.

    A single request's inputs are returned as they are if there are neither buffers nor padding.
    """
    if buffers is None and len(batch) == 1 and not padding:
        return batch[0].inputs
    columns = zip(*[request.inputs for request in batch], strict=True)
    outs = buffers or [None] * len(batch[0].inputs)
    return tuple(
        np.concatenate([*parts, *[parts[-1][-1:]] * padding], out=out) for parts, out in zip(columns, outs, strict=True)
    )


def _checked(outputs: Sequence[NDArray[np.generic]], batch: Sequence[PendingRequest], rows: int) -> Arrays:
    """The outputs, after a check that they can be split among the requests."""
    if (len(batch) > 1 or rows > batch[0].rows) and any(len(output) != rows for output in outputs):
        raise ValueError(f"outputs have shapes {[output.shape for output in outputs]}, expected {rows} rows")
    return tuple(outputs)


def _encode(batch: Sequence[PendingRequest], outputs: Outputs) -> list[PendingRequest]:
    """Encode each request's rows; return the requests that can be answered. An error in one affects no other."""
    encoded = []
    first = 0
    for request in batch:
        end = first + request.rows
        try:
            request.prepare(outputs, first, end)
            encoded.append(request)
        except Exception:
            error = EngineFailed()
            log.exception("response not encoded", error_id=error.error_id)
            request.refuse(error)
        first = end
    return encoded
