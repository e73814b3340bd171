"""Joins requests that wait into batches, and hands each its own rows back.

Owns, for one model version:
1. the queue, bounded in rows: a full one refuses at the door, and so does one that cannot meet a deadline;
2. which requests ride together: first come first served, never more rows than a batch may have, none split;
3. the threads that run the batches, one an engine, which start one as soon as an engine is free; a front may lend its
   own thread for a short batch, which saves two changes of thread;
4. isolation: a batch that fails is run again in parts until only the guilty request fails.

Does not own: what runs (a callable), how requests are read and answers written (the `Request` does that), the wire.
"""

import threading
import time
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import structlog
from numpy.typing import NDArray

from service.errors import DeadlineExceeded, EngineFailed, QueueFull, ServiceError
from service.statistics import Batch, Statistics

Arrays = tuple[NDArray[np.generic], ...]
Run = Callable[[Arrays], Sequence[NDArray[np.generic]]]

log = structlog.get_logger(__name__)


class BatcherClosed(Exception):
    """The batcher takes nothing new: its model version is being unloaded."""


class Request(ABC):
    """What waits in the queue: inputs with `rows` rows, and how to answer."""

    __slots__ = ("arrived", "deadline", "inputs", "rows")

    def __init__(self, inputs: Arrays, rows: int, *, arrived: float, deadline: float | None) -> None:
        self.inputs = inputs
        self.rows = rows
        self.arrived = arrived  # on the batcher's clock
        self.deadline = deadline

    @abstractmethod
    def prepare(self, outputs: Arrays) -> None:
        """Make the answer from this request's rows of every output."""

    @abstractmethod
    def send(self) -> None:
        """Send what was prepared; called once, unless `fail` is."""

    @abstractmethod
    def fail(self, error: ServiceError) -> None:
        """Send the reason why there is no answer; called once, unless `send` is."""

    @property
    def shape_key(self) -> tuple[tuple[int, ...], ...]:
        """Requests with equal keys can be joined along the first axis."""
        return tuple(array.shape[1:] for array in self.inputs)


@dataclass(frozen=True)
class Policy:
    """How requests are joined. Times are in seconds."""

    max_batch_size: int  # rows; 1 means that requests run alone
    max_queue_rows: int
    max_delay: float = 0.0  # how long the oldest request may wait for company while an engine is free
    lend_below: float = 0.005  # a batch that takes less may run on a thread that is lent; 0 for none


class Batcher:
    """One model version's queue and the threads that empty it, one for each of `runs`.

    `same_shape` says that all requests can be joined, so that their shapes need not be compared.
    """

    def __init__(
        self,
        runs: Sequence[Run],
        policy: Policy,
        statistics: Statistics,
        *,
        name: str,
        same_shape: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.policy = policy
        self.name = name
        self._statistics = statistics
        self._same_shape = same_shape
        self._clock = clock
        self._lock = threading.Lock()  # guards all below
        self._queue: OrderedDict[Request, None] = OrderedDict()
        self._rows_waiting = 0
        self._rows_running = 0
        self._seconds_a_row: float | None = None  # moving average, of whole batches
        self._closed = False
        self._idle: list[tuple[threading.Lock, Run]] = []  # engines that are free, and what wakes their threads
        self._engines = len(runs)
        self._threads = [
            threading.Thread(target=self._work, args=(run,), name=f"engine-{name}-{index}", daemon=True)
            for index, run in enumerate(runs)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def rows_waiting(self) -> int:
        """Rows in the queue now."""
        return self._rows_waiting

    @property
    def pending(self) -> int:
        """Rows in the queue or in an engine now."""
        return self._rows_waiting + self._rows_running

    def submit(self, request: Request, *, wake: bool = True) -> None:
        """Put the request in the queue, and wake an engine unless the caller will lend its thread.

        Raises:
            QueueFull: the queue has no room for its rows.
            DeadlineExceeded: its deadline has passed, or would while it waits.
            BatcherClosed: the batcher was closed; another version may have taken over.
        """
        with self._lock:
            if self._closed:
                raise BatcherClosed
            waiting = self._rows_waiting
            if waiting + request.rows > self.policy.max_queue_rows:
                raise QueueFull(waiting, self.policy.max_queue_rows, retry_after=self._seconds_for(waiting))
            if request.deadline is not None:
                self._check_deadline(request, request.deadline)
            self._queue[request] = None
            self._rows_waiting = waiting + request.rows
            if wake and self._idle:
                self._idle.pop()[0].release()

    def lend_thread(self) -> bool:
        """Run the next batch here if an engine is free and the batch is short, else see that its own thread does.

        Returns whether requests still wait for the caller: it should look for more of them, and come again.
        """
        with self._lock:
            if not self._queue or not self._idle:
                return False
            wake, run = self._idle.pop()
            expected = min(self._rows_waiting, self.policy.max_batch_size) * (self._seconds_a_row or 0.0)
            if self.policy.max_delay or not 0 < expected < self.policy.lend_below:
                wake.release()
                return False
            batch, closed_by, expired = self._take("idle")
        try:
            _fail_expired(expired, self._clock())
            if batch:
                self._execute(run, batch, closed_by)
        finally:
            with self._lock:
                if self._closed:
                    wake.release()  # its thread answers what is left, and ends
                else:
                    self._idle.append((wake, run))
        return bool(self._queue) and not self._closed

    def cancel(self, request: Request) -> bool:
        """Take the request out of the queue; False if it is no longer there."""
        with self._lock:
            if request not in self._queue:
                return False
            del self._queue[request]
            self._rows_waiting -= request.rows
            return True

    def close(self) -> None:
        """Refuse new requests; those that wait are still answered."""
        with self._lock:
            self._closed = True
            for wake, _ in self._idle:
                wake.release()
            self._idle.clear()

    def join(self, timeout: float | None = None) -> bool:
        """Wait until all is answered and the threads have ended; False if that took longer than `timeout` seconds."""
        limit = None if timeout is None else self._clock() + timeout
        for thread in self._threads:
            thread.join(None if limit is None else max(0.0, limit - self._clock()))
        return not any(thread.is_alive() for thread in self._threads)

    def fail_waiting(self, error: ServiceError) -> None:
        """Empty the queue, failing every request in it."""
        with self._lock:
            requests = list(self._queue)
            self._queue.clear()
            self._rows_waiting = 0
        for request in requests:
            request.fail(error)

    def _seconds_for(self, rows: int) -> float:
        """How long the engines take for that many rows, by what they took lately; 0 while nothing is known."""
        return rows * (self._seconds_a_row or 0.0) / self._engines

    def _check_deadline(self, request: Request, deadline: float) -> None:
        now = self._clock()
        if deadline <= now:
            raise DeadlineExceeded("the deadline had passed when the request arrived")
        ahead = self._rows_waiting + self._rows_running
        if not ahead:
            return  # nothing in the way: let it run, and the estimate learn from it
        wait = self._seconds_for(ahead + request.rows)
        if now + wait > deadline:
            raise DeadlineExceeded(
                f"the deadline cannot be met: {ahead} rows are ahead, about {wait * 1e3:.0f} ms of work, "
                f"and {(deadline - now) * 1e3:.0f} ms are left"
            )

    def _work(self, run: Run) -> None:
        """An engine's thread: run batches until the batcher is closed and the queue empty."""
        wake = threading.Lock()
        wake.acquire()
        while True:
            sleep = -1.0
            batch: list[Request] = []
            expired: list[Request] = []
            closed_by = ""
            with self._lock:
                if self._queue:
                    sleep, closed_by = self._when()
                    if sleep <= 0:
                        batch, closed_by, expired = self._take(closed_by)
                elif self._closed:
                    return
                if not batch and not expired:
                    self._idle.append((wake, run))
            _fail_expired(expired, self._clock())
            if batch:
                self._execute(run, batch, closed_by)
            elif not expired and not wake.acquire(timeout=sleep):
                with self._lock:
                    if (wake, run) in self._idle:
                        self._idle.remove((wake, run))
                    else:
                        wake.acquire()  # released in the same instant

    def _when(self) -> tuple[float, str]:
        """Seconds until the next batch should start, at most 0 for now, and what will have closed it."""
        if self._rows_waiting >= self.policy.max_batch_size or self._closed or not self.policy.max_delay:
            return 0.0, "idle"
        oldest = next(iter(self._queue))
        now = self._clock()
        sleep, closed_by = oldest.arrived + self.policy.max_delay - now, "delay"
        tightest = min((request.deadline for request in self._queue if request.deadline is not None), default=None)
        if tightest is not None:
            # Twice the estimate, for an engine is not always as fast; while there is none, do not gamble.
            estimate = self._seconds_for(self._rows_waiting)
            latest = tightest - 2 * estimate - 1e-3 - now if estimate else 0.0
            if latest < sleep:
                return latest, "deadline"
        return sleep, closed_by

    def _take(self, closed_by: str) -> tuple[list[Request], str, list[Request]]:
        """The next batch from the front of the queue, what closed it, and the requests that expired before it."""
        batch: list[Request] = []
        expired: list[Request] = []
        rows, key, now = 0, None, self._clock()
        queue, limit = self._queue, self.policy.max_batch_size
        while queue:
            request = next(iter(queue))
            if request.deadline is not None and request.deadline <= now:
                del queue[request]
                self._rows_waiting -= request.rows
                expired.append(request)
                continue
            if batch and (rows + request.rows > limit or (key is not None and request.shape_key != key)):
                closed_by = "full"
                break
            if not batch and not self._same_shape:
                key = request.shape_key
            del queue[request]
            batch.append(request)
            rows += request.rows
        if rows >= limit:
            closed_by = "full"
        self._rows_waiting -= rows
        self._rows_running += rows
        return batch, closed_by, expired

    def _execute(self, run: Run, batch: list[Request], closed_by: str) -> None:
        """Run a batch, answer its requests and count it."""
        rows = sum(request.rows for request in batch)
        started = self._clock()
        try:
            self._run_in_parts(run, batch, closed_by)
        finally:
            seconds = (self._clock() - started) / rows
            with self._lock:
                self._rows_running -= rows
                before = self._seconds_a_row
                self._seconds_a_row = seconds if before is None else 0.8 * before + 0.2 * seconds

    def _run_in_parts(self, run: Run, batch: list[Request], closed_by: str) -> None:
        started = self._clock()
        try:
            inputs = _join(batch)
            gathered = self._clock()
            outputs = _checked(run(inputs), batch)
            computed = self._clock()
        except Exception:
            if len(batch) == 1:
                error = EngineFailed()
                log.exception("the engine failed", model=self.name, error_id=error.error_id, rows=batch[0].rows)
                batch[0].fail(error)
                return
            log.warning("a batch failed; it is run again in parts", model=self.name, requests=len(batch))
            middle = len(batch) // 2
            self._run_in_parts(run, batch[:middle], closed_by)
            self._run_in_parts(run, batch[middle:], closed_by)
            return
        # From here on nothing may lead to a second run: some may have their answers already.
        answered = _answer(batch, outputs)
        ended = self._clock()
        self._statistics.batch(
            Batch(
                rows=sum(request.rows for request in batch),
                closed_by=closed_by,
                queued=[started - request.arrived for request in answered],
                total=[ended - request.arrived for request in answered],
                gather=gathered - started,
                compute=computed - gathered,
                scatter=ended - computed,
            )
        )


def _join(batch: Sequence[Request]) -> Arrays:
    """The inputs of all requests, one after the other; those of a single one as they are."""
    if len(batch) == 1:
        return batch[0].inputs
    return tuple(np.concatenate(parts) for parts in zip(*(request.inputs for request in batch), strict=True))


def _checked(outputs: Sequence[NDArray[np.generic]], batch: Sequence[Request]) -> Arrays:
    """The outputs, if they can be divided among the requests."""
    rows = sum(request.rows for request in batch)
    if len(batch) > 1 and any(len(output) != rows for output in outputs):
        raise ValueError(f"outputs of shapes {[output.shape for output in outputs]} for {rows} rows")
    return tuple(outputs)


def _answer(batch: Sequence[Request], outputs: Arrays) -> list[Request]:
    """Give each request its rows; those that got them. One's trouble is not its batch mates'."""
    prepared = []
    row = 0
    for request in batch:
        following = row + request.rows
        own = outputs if len(batch) == 1 else tuple(output[row:following] for output in outputs)
        if _prepare(request, own):
            prepared.append(request)
        row = following
    return [request for request in prepared if _send(request)]  # at once, so that a front can write few packets


def _fail_expired(requests: Sequence[Request], now: float) -> None:
    for request in requests:
        waited = now - request.arrived
        request.fail(DeadlineExceeded(f"the deadline passed after {waited * 1e3:.0f} ms in the queue"))


def _prepare(request: Request, outputs: Arrays) -> bool:
    """Make one request's answer; its trouble is not its batch mates'."""
    try:
        request.prepare(outputs)
    except Exception:
        error = EngineFailed()
        log.exception("an answer could not be built", error_id=error.error_id)
        request.fail(error)
        return False
    return True


def _send(request: Request) -> bool:
    try:
        request.send()
    except Exception:
        log.exception("an answer could not be sent")
        return False
    return True
