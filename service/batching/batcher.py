"""Joins requests that wait into batches.

Owns, for one model version:
1. the door: a full queue refuses, and so does one that cannot meet the request's deadline;
2. when a batch starts: as soon as an engine is free, unless the configuration asks it to wait for company;
3. the threads that run the batches, one an engine; a front may lend its own thread for a short batch, which saves two
   changes of thread.

Does not own: who rides with whom (queue.py), what becomes of a batch (execution.py), what runs (a callable), how
requests are read and answers written (the `PendingRequest` does that), the wire.
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

# The longest that a thread waits at once, in seconds: Python has a limit, and requests and configurations have none.
MAX_WAIT_SECONDS = 3600.0
# How much longer than estimated a batch may take, when deadlines are held against it.
ESTIMATE_MARGIN = 1.1


class BatcherClosed(Exception):
    """The batcher takes nothing new: its model version is being unloaded."""


@dataclass(frozen=True)
class BatchingPolicy:
    """How requests are joined. Times are in seconds."""

    max_batch_size: int  # rows; 1 means that requests run alone
    levels: Sequence[QueuePolicy]  # of priority, the first is served first
    default_level: int = 0
    max_delay: float = 0.0  # how long the oldest request may wait for company while an engine is free
    preferred: Set[int] = frozenset()  # batches of these numbers of rows are formed where they can be
    preserve_ordering: bool = False  # answers leave in the order in which their batches were formed
    sizes: Sequence[int] = ()  # every batch is filled up to the next of these numbers of rows, which ascend
    inline_below_seconds: float = 0.005  # a batch that takes less may run on a thread that is lent; 0 for none


class Batcher:
    """One model version's queue and the threads that empty it, one for each of `engines`.

    `fixed_shapes` says that all requests can be joined, so that their shapes need not be compared. What is answered is
    also counted in `predictions`. `probe` is as of Execution; when it finds a run broken, everything that waits fails
    and `on_broken` is called.
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
        self.broken = ""  # why it cannot go on
        self._executor = BatchExecutor(
            statistics,
            name=name,
            clock=clock,
            sizes=policy.sizes,
            predictions=predictions,
            probe=probe,
            on_broken=self._break,
        )
        self._fixed_shapes = fixed_shapes
        self._on_broken = on_broken
        self._clock = clock
        self._sequencer = Sequencer() if policy.preserve_ordering and len(engines) > 1 else None
        self._lock = threading.Lock()  # guards all below
        self._queue = RequestQueue(policy.levels, policy.default_level)
        self._rows_running = 0
        self._requests_running = 0
        self._seconds_per_row: float | None = None  # moving average, of whole batches
        self._closed = False
        self._free_engines: list[
            tuple[threading.Lock, Backend]
        ] = []  # engines that are free, and what wakes their threads
        self._engines = len(engines)
        self._timer: threading.Thread | None = None  # fails what times out; made when first needed
        self._timer_at = math.inf  # when it looks next
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
        """Rows that may wait, of all priorities together."""
        return sum(level.max_rows for level in self.policy.levels)

    @property
    def pending(self) -> int:
        """Rows in the queue or in an engine now."""
        return self._queue.rows + self._rows_running

    @property
    def requests_in_flight(self) -> int:
        """Requests in the queue or in an engine now."""
        with self._lock:
            return len(self._queue) + self._requests_running

    # --- admission ---

    def submit(self, request: PendingRequest, *, wake: bool = True) -> None:
        """Put the request in the queue, and wake an engine unless the caller will lend its thread.

        Raises:
            InvalidArgument: its priority is none of the model's.
            QueueFull: the queue has no room for its rows.
            DeadlineExceeded: its deadline has passed, or would while it waits.
            NotReady: the engine is broken.
            BatcherClosed: the batcher was closed; another version may have taken over.
        """
        with self._lock:
            if self.broken:
                raise NotReady(f"model {self.name!r}: {self.broken}")
            if self._closed:
                raise BatcherClosed
            queue = self._queue
            queue.admit(request)
            waiting, limit = queue.level_rows(request)
            if waiting + request.rows > limit:
                raise QueueFull(waiting, limit, retry_after=self._estimate_seconds(waiting))
            if request.deadline is not None:
                self._check_deadline(request, request.deadline)
            queue.push(request)
            if wake and self._free_engines:
                self._free_engines.pop()[0].release()
            if request.timeout and request.deadline is not None and request.deadline < self._timer_at:
                self._watch_timeouts()

    def cancel(self, request: PendingRequest) -> bool:
        """Take the request out of the queue; False if it is no longer there."""
        with self._lock:
            return self._queue.remove(request)

    def close(self) -> None:
        """Refuse new requests; those that wait are still answered."""
        with self._lock:
            self._closed = True
            for wake, _ in self._free_engines:
                wake.release()
            self._free_engines.clear()
            self._timer_changed.notify()

    def join(self, timeout: float | None = None) -> bool:
        """Wait until all is answered and the threads have ended; False if that took longer than `timeout` seconds."""
        limit = None if timeout is None else self._clock() + timeout
        for thread in self._threads:
            thread.join(None if limit is None else max(0.0, limit - self._clock()))
        return not any(thread.is_alive() for thread in self._threads)

    def fail_pending(self, error: ServiceError) -> None:
        """Empty the queue, failing every request in it."""
        with self._lock:
            requests = self._queue.clear()
        for request in requests:
            request.fail(error)

    def _estimate_seconds(self, rows: int) -> float:
        """How long the engines take for that many rows, by what they took lately; 0 while nothing is known."""
        if sizes := self.policy.sizes:
            full, rest = divmod(rows, sizes[-1])
            rows = full * sizes[-1] + (padded(rest, sizes) if rest else 0)
        return rows * (self._seconds_per_row or 0.0) / self._engines

    def _check_deadline(self, request: PendingRequest, deadline: float) -> None:
        now = self._clock()
        if deadline <= now:
            raise DeadlineExceeded("the deadline had passed when the request arrived")
        ahead = self._queue.rows_ahead(request) + self._rows_running
        if not ahead:
            return  # nothing in the way: let it run, and the estimate learn from it
        wait = self._estimate_seconds(ahead + request.rows)
        if now + ESTIMATE_MARGIN * wait > deadline:
            raise DeadlineExceeded(
                f"the deadline cannot be met: {ahead} rows are ahead, about {wait * 1e3:.0f} ms of work, "
                f"and {(deadline - now) * 1e3:.0f} ms are left"
            )

    # --- what times out ---

    def _watch_timeouts(self) -> None:
        """See that the request that just came is failed in time; the wire ends calls at deadlines, not at timeouts."""
        if self._timer is None:
            self._timer = threading.Thread(target=self._expire_requests, name=f"timeouts-{self.name}", daemon=True)
            self._timer.start()
        self._timer_changed.notify()

    def _expire_requests(self) -> None:
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
        """Run the next batch here if an engine is free and the batch is short, else see that its own thread does.

        Returns whether requests still wait for the caller: it should look for more of them, and come again.
        """
        with self._lock:
            if not self._queue or not self._free_engines:
                return False
            wake, engine = self._free_engines.pop()
            expected = self._estimate_seconds(min(self._queue.rows, self.policy.max_batch_size)) * self._engines
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
                    wake.release()  # its thread answers what is left, and ends
                else:
                    self._free_engines.append((wake, engine))
        return bool(self._queue) and not self._closed

    def _run_engine(self, engine: Backend) -> None:
        """An engine's thread: run batches until the batcher is closed and the queue empty."""
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
                        wake.acquire()  # released in the same instant

    def _next_start(self) -> tuple[float, str]:
        """Seconds until the next batch should start, at most 0 for now, and what will have closed it."""
        policy = self.policy
        if self._queue.rows >= policy.max_batch_size or self._closed or not policy.max_delay:
            return 0.0, "engine_free"
        if policy.preferred and self._queue.can_form(policy.preferred):
            return 0.0, "preferred"
        now = self._clock()
        sleep, closed_by = min(request.arrived for request in self._queue) + policy.max_delay - now, "delay"
        tightest = min((request.deadline for request in self._queue if request.deadline is not None), default=None)
        if tightest is not None:
            # Twice the estimate, for an engine is not always as fast; while there is none, do not gamble.
            estimate = self._estimate_seconds(self._queue.rows)
            latest = tightest - 2 * estimate - 1e-3 - now if estimate else 0.0
            if latest < sleep:
                return latest, "deadline"
        return sleep, closed_by

    def _next_batch(self, closed_by: str) -> tuple[list[PendingRequest], str, list[PendingRequest], int]:
        """The next batch, what closed it, the requests that expired before it, and its turn to be answered."""
        policy = self.policy
        # A batch that has waited as long as it may takes all that fits.
        preferred = frozenset[int]() if closed_by in ("delay", "deadline") else policy.preferred
        now = self._clock()
        seconds = self._estimate_seconds(min(self._queue.rows, policy.max_batch_size)) * self._engines
        batch, closed, expired = self._queue.take(
            policy.max_batch_size,
            now,
            done=now + ESTIMATE_MARGIN * seconds,
            fixed_shapes=self._fixed_shapes,
            preferred=preferred,
        )
        self._rows_running += sum([request.rows for request in batch])
        self._requests_running += len(batch)
        ticket = self._sequencer.ticket() if self._sequencer and batch else 0
        return batch, closed or closed_by, expired, ticket

    def _execute(self, engine: Backend, batch: list[PendingRequest], closed_by: str, ticket: int) -> None:
        """Run a batch, and learn from how long it took."""
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

    def _break(self, reason: str) -> None:
        """Take no more, and tell all that wait."""
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
        what = "passed" if request.deadline is None or request.deadline <= now else "cannot be met any more"
        waited = now - request.arrived
        request.fail(DeadlineExceeded(f"the deadline {what} after {waited * 1e3:.0f} ms in the queue"))
