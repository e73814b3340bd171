"""The dynamic batcher of one model version: admission, batch start, and the engine threads.

Owns:
1. admission: reject a request if the queue is full or if its deadline cannot be met;
2. when a batch starts: as soon as an engine is free, unless the configuration sets a queue delay;
3. one thread for each engine. A server may run a short batch on its own thread instead (`run_inline`), which saves two
   thread switches.

Not here: batch composition (queue.py), execution and splitting of outputs (execution.py), decoding and encoding (the
`PendingRequest` does both), transport.
"""

import functools
import math
import threading
import time
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass

import structlog

from service.batching.execution import BatchExecutor
from service.batching.predictions import Predictions
from service.batching.queue import PendingRequest, QueuePolicy, RequestQueue
from service.batching.sequencer import Sequencer
from service.batching.statistics import Statistics
from service.core.batch_sizes import padded
from service.core.errors import DeadlineExceeded, NotReady, QueueFull, ServiceError
from service.core.spec import Backend, Run

log = structlog.get_logger(__name__)

# Longest single wait of a thread, in seconds: Python limits waits, but configured delays and timeouts have no limit.
MAX_WAIT_SECONDS = 3600.0
# Safety factor on the estimated time when it is compared with a deadline.
ESTIMATE_MARGIN = 1.1


class BatcherClosed(Exception):
    """The batcher accepts no new requests: its model version is being unloaded."""


@dataclass(frozen=True)
class BatchingPolicy:
    """How requests form batches. Times are in seconds."""

    max_batch_size: int  # rows; 1 runs every request alone
    levels: Sequence[QueuePolicy]  # one for each priority level, highest priority first
    default_level: int = 0
    max_delay: float = 0.0  # longest wait of the oldest request for a larger batch while an engine is free
    preferred: Set[int] = frozenset()  # preferred batch sizes in rows
    preserve_ordering: bool = False  # send responses in the order in which batches were formed
    sizes: Sequence[int] = ()  # ascending; every batch is padded to the next of these sizes; empty for no padding
    inline_below_seconds: float = 0.005  # run_inline runs a batch whose estimate is below this; 0 for none


class Batcher:
    """One model version's request queue and its engine threads, one for each of `engines`.

    `fixed_shapes` means that all requests have equal shapes apart from the first axis, so these are not compared.
    `predictions` counts the predicted classes. `probe` raises if an engine is broken (see BatchExecutor): then the
    batcher fails all pending requests, closes and calls `on_broken`.
    """

    def __init__(
        self,
        engines: Sequence[Backend],
        policy: BatchingPolicy,
        statistics: Statistics,
        *,
        name: str,
        fixed_shapes: bool = True,
        predictions: Predictions | None = None,
        probe: Callable[[Run], None] = lambda _: None,
        on_broken: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.policy = policy
        self.name = name
        self.broken = ""  # why the engine is broken; "" while it works
        self._executor = BatchExecutor(
            statistics,
            name=name,
            clock=clock,
            sizes=policy.sizes,
            predictions=predictions,
            probe=probe,
            on_broken=self._mark_broken,
        )
        self._fixed_shapes = fixed_shapes
        self._on_broken = on_broken
        self._clock = clock
        self._sequencer = Sequencer() if policy.preserve_ordering and len(engines) > 1 else None
        self._lock = threading.Lock()  # guards all below
        self._queue = RequestQueue(policy.levels, policy.default_level)
        self._rows_running = 0
        self._requests_running = 0
        self._seconds_per_row: float | None = None  # moving average over batches; None before the first
        self._closed = False
        # Free engines, each with the lock whose release wakes its thread.
        self._free_engines: list[tuple[threading.Lock, Backend]] = []
        self._engine_count = len(engines)
        self._timer: threading.Thread | None = None  # fails requests that time out; started when first needed
        self._timer_at = math.inf  # time of its next check
        self._timer_changed = threading.Condition(self._lock)
        self._threads = [
            threading.Thread(target=self._run_engine, args=(engine,), name=f"engine-{name}-{index}", daemon=True)
            for index, engine in enumerate(engines)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def queued_rows(self) -> int:
        """Rows in the queue now."""
        return self._queue.rows

    @property
    def max_queue_rows(self) -> int:
        """Capacity of the queue in rows, all priority levels together."""
        return sum(level.max_rows for level in self.policy.levels)

    @property
    def pending_rows(self) -> int:
        """Rows in the queue or in an engine now."""
        return self._queue.rows + self._rows_running

    @property
    def requests_in_flight(self) -> int:
        """Requests in the queue or in an engine now."""
        with self._lock:
            return len(self._queue) + self._requests_running

    # --- admission ---

    def submit(self, request: PendingRequest, *, wake: bool = True) -> None:
        """Put the request in the queue and wake a free engine. With `wake=False` the caller calls `run_inline` next.

        Raises:
            InvalidArgument: the model has no such priority level.
            QueueFull: the request's rows exceed the free capacity of its level.
            DeadlineExceeded: the deadline has passed, or the estimated wait exceeds it.
            NotReady: the engine is broken.
            BatcherClosed: the batcher is closed; another version may have replaced this one.
        """
        with self._lock:
            if self.broken:
                raise NotReady(f"model {self.name!r}: {self.broken}")
            if self._closed:
                raise BatcherClosed
            queue = self._queue
            queue.admit(request)
            queued, limit = queue.level_rows(request)
            if queued + request.rows > limit:
                raise QueueFull(queued, limit, retry_after=self._estimate_seconds(queued))
            if request.deadline is not None:
                self._check_deadline(request, request.deadline)
            queue.push(request)
            if wake and self._free_engines:
                self._free_engines.pop()[0].release()
            if request.timeout and request.deadline is not None and request.deadline < self._timer_at:
                self._watch_timeouts()

    def cancel(self, request: PendingRequest) -> bool:
        """Remove the request from the queue; False if it is no longer queued."""
        with self._lock:
            return self._queue.remove(request)

    def close(self) -> None:
        """Refuse new requests; the engine threads answer the queued ones and end."""
        with self._lock:
            self._closed = True
            for wake, _ in self._free_engines:
                wake.release()
            self._free_engines.clear()
            self._timer_changed.notify()

    def join(self, timeout: float | None = None) -> bool:
        """After `close`, wait for the engine threads to end; False if they still run after `timeout` seconds."""
        limit = None if timeout is None else self._clock() + timeout
        for thread in self._threads:
            thread.join(None if limit is None else max(0.0, limit - self._clock()))
        return not any(thread.is_alive() for thread in self._threads)

    def fail_pending(self, error: ServiceError) -> None:
        """Fail every queued request with `error` and empty the queue."""
        with self._lock:
            requests = self._queue.clear()
        for request in requests:
            request.fail(error)

    def _estimate_seconds(self, rows: int) -> float:
        """Estimated time of all engines together for `rows` rows, from recent batches; 0 before the first batch."""
        if sizes := self.policy.sizes:
            full_batches, rest = divmod(rows, sizes[-1])
            rows = full_batches * sizes[-1] + (padded(rest, sizes) if rest else 0)
        return rows * (self._seconds_per_row or 0.0) / self._engine_count

    def _check_deadline(self, request: PendingRequest, deadline: float) -> None:
        now = self._clock()
        if deadline <= now:
            raise DeadlineExceeded("the deadline had passed when the request arrived")
        ahead = self._queue.rows_ahead(request) + self._rows_running
        if not ahead:
            return  # nothing delays it: run it even if the estimate is too long, and so update the estimate
        wait = self._estimate_seconds(ahead + request.rows)
        if now + ESTIMATE_MARGIN * wait > deadline:
            raise DeadlineExceeded(
                f"the deadline cannot be met: {ahead} rows are ahead, about {wait * 1e3:.0f} ms of work, "
                f"and {(deadline - now) * 1e3:.0f} ms are left"
            )

    # --- timeouts ---

    def _watch_timeouts(self) -> None:
        """Make the timer check in time for a new request. The transport enforces deadlines, not queue timeouts."""
        if self._timer is None:
            self._timer = threading.Thread(target=self._expire_requests, name=f"timeouts-{self.name}", daemon=True)
            self._timer.start()
        self._timer_changed.notify()

    def _expire_requests(self) -> None:
        """The timer thread: fail queued requests as they time out, until the batcher is closed and the queue empty."""
        while True:
            with self._lock:
                expired = self._queue.drop_expired(self._clock())
                if not expired:
                    if self._closed and not self._queue:
                        return
                    self._timer_at = self._queue.next_timeout()
                    wait = min(max(0.0, self._timer_at - self._clock()), MAX_WAIT_SECONDS)
                    self._timer_changed.wait(wait)
            _fail_expired(expired, self._clock())

    # --- batches ---

    def run_inline(self) -> bool:
        """Run the next batch on the calling thread if an engine is free and the batch is short; else wake its thread.

        Returns whether the caller must call again because requests are still queued; it may receive more calls first.
        """
        with self._lock:
            if not self._queue or not self._free_engines:
                return False
            wake, engine = self._free_engines.pop()
            expected = self._estimate_seconds(min(self._queue.rows, self.policy.max_batch_size)) * self._engine_count
            if self.policy.max_delay or self._sequencer or not 0 < expected < self.policy.inline_below_seconds:
                wake.release()
                return False
            batch, closed_by, expired, ticket = self._next_batch("engine_free")
        try:
            _fail_expired(expired, self._clock())
            if batch:
                self._execute(engine, batch, closed_by, ticket)
        finally:
            with self._lock:
                if self._closed:
                    wake.release()  # the engine thread answers the queued requests, then ends
                else:
                    self._free_engines.append((wake, engine))
        return bool(self._queue) and not self._closed

    def _run_engine(self, engine: Backend) -> None:
        """The engine thread: run batches until the batcher is closed and the queue empty."""
        wake = threading.Lock()
        wake.acquire()
        while True:
            sleep = -1.0
            batch: list[PendingRequest] = []
            expired: list[PendingRequest] = []
            closed_by, ticket = "", 0
            with self._lock:
                if self._queue:
                    sleep, closed_by = self._next_start()
                    if sleep <= 0:
                        batch, closed_by, expired, ticket = self._next_batch(closed_by)
                elif self._closed:
                    self._timer_changed.notify()
                    return
                if not batch and not expired:
                    self._free_engines.append((wake, engine))
            _fail_expired(expired, self._clock())
            if batch:
                self._execute(engine, batch, closed_by, ticket)
            elif not expired and not wake.acquire(timeout=min(sleep, MAX_WAIT_SECONDS)):
                with self._lock:
                    if (wake, engine) in self._free_engines:
                        self._free_engines.remove((wake, engine))
                    else:
                        wake.acquire()  # woken in the same instant: consume that release

    def _next_start(self) -> tuple[float, str]:
        """Seconds until the next batch starts, 0 or less for now, and the reason that closes it."""
        policy = self.policy
        if self._queue.rows >= policy.max_batch_size or self._closed or not policy.max_delay:
            return 0.0, "engine_free"
        if policy.preferred and self._queue.can_form(policy.preferred):
            return 0.0, "preferred"
        now = self._clock()
        sleep, closed_by = min(request.arrived for request in self._queue) + policy.max_delay - now, "delay"
        earliest = min((request.deadline for request in self._queue if request.deadline is not None), default=None)
        if earliest is not None:
            # Allow twice the estimate, because run times vary. Without an estimate, start now.
            estimate = self._estimate_seconds(self._queue.rows)
            latest_start = earliest - 2 * estimate - 1e-3 - now if estimate else 0.0
            if latest_start < sleep:
                return latest_start, "deadline"
        return sleep, closed_by

    def _next_batch(self, closed_by: str) -> tuple[list[PendingRequest], str, list[PendingRequest], int]:
        """Take the next batch: its requests, the reason that closed it, the expired requests, its sequencer ticket."""
        policy = self.policy
        # When the queue delay is over, the batch takes everything that fits.
        preferred = frozenset[int]() if closed_by in ("delay", "deadline") else policy.preferred
        now = self._clock()
        seconds = self._estimate_seconds(min(self._queue.rows, policy.max_batch_size)) * self._engine_count
        batch, closed, expired = self._queue.take(
            policy.max_batch_size,
            now,
            expected_end=now + ESTIMATE_MARGIN * seconds,
            fixed_shapes=self._fixed_shapes,
            preferred=preferred,
        )
        self._rows_running += sum([request.rows for request in batch])
        self._requests_running += len(batch)
        ticket = self._sequencer.ticket() if self._sequencer and batch else 0
        return batch, closed or closed_by, expired, ticket

    def _execute(self, engine: Backend, batch: list[PendingRequest], closed_by: str, ticket: int) -> None:
        """Run a batch and update the estimate with its duration."""
        rows = sum([request.rows for request in batch])
        started = self._clock()
        try:
            if self._sequencer is None:
                self._executor.execute(engine, batch, closed_by)
            else:
                self._executor.execute(engine, batch, closed_by, functools.partial(self._sequencer.wait, ticket))
        finally:
            if self._sequencer:
                self._sequencer.wait(ticket)
                self._sequencer.done()
            seconds = (self._clock() - started) / padded(rows, self.policy.sizes)
            with self._lock:
                self._rows_running -= rows
                self._requests_running -= len(batch)
                before = self._seconds_per_row
                self._seconds_per_row = seconds if before is None else 0.8 * before + 0.2 * seconds

    def _mark_broken(self, reason: str) -> None:
        """Fail all queued requests, close, and report the engine as broken; once."""
        with self._lock:
            first = not self.broken
            self.broken = self.broken or reason
        if first:
            log.critical("engine broken", model=self.name, reason=reason)
            self.fail_pending(NotReady(f"model {self.name!r}: {reason}"))
            self.close()
            self._on_broken()


def _fail_expired(requests: Sequence[PendingRequest], now: float) -> None:
    for request in requests:
        problem = "passed" if request.deadline is None or request.deadline <= now else "can no longer be met"
        waited = now - request.arrived
        request.fail(DeadlineExceeded(f"the deadline {problem} after {waited * 1e3:.0f} ms in the queue"))
