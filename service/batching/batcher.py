"""The dynamic batcher of one model version: a thread for each engine that does what the scheduler decides.

Owns the threads, the lock around the scheduler, and the way from a decision to its effect: run a batch, wake an engine,
fail a request. A server may lend its own thread for short batches (`submit_burst`), which saves two thread switches.
Not here: the decisions (scheduler.py), batch composition (queue.py), execution and splitting of outputs (execution.py),
decoding and encoding (the `PendingRequest` does both), transport.
"""

import contextlib
import math
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import structlog

from service.batching.execution import BatchExecutor
from service.batching.predictions import Predictions
from service.batching.queue import PendingRequest
from service.batching.scheduler import Batch, BatcherClosed, BatchingPolicy, Scheduler, Turn
from service.batching.sequencer import Sequencer
from service.batching.statistics import Statistics
from service.core.errors import DeadlineExceeded, NotReady, ServiceError
from service.core.spec import Backend, Run

log = structlog.get_logger(__name__)

# Longest single wait of a thread, in seconds: Python limits waits, but configured delays and timeouts have no limit.
MAX_WAIT_SECONDS = 3600.0

R = TypeVar("R", bound=PendingRequest)


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
        self._engines = engines
        self._executor = BatchExecutor(
            statistics,
            name=name,
            clock=clock,
            sizes=policy.sizes,
            predictions=predictions,
            probe=probe,
            on_broken=self._break,
        )
        self._on_broken = on_broken
        self._clock = clock
        self._sequencer = Sequencer() if policy.preserve_ordering and len(engines) > 1 else None
        self._lock = threading.Lock()  # guards all below
        self._scheduler = Scheduler(policy, len(engines), fixed_shapes=fixed_shapes)
        self._timer: threading.Thread | None = None  # fails requests that time out; started when first needed
        self._timer_at = math.inf  # time of its next check
        self._timer_changed = threading.Condition(self._lock)
        self._wakeups = [_Wakeup() for _ in engines]  # each wakes one engine thread
        self._threads = [
            threading.Thread(target=self._run_engine, args=(index,), name=f"engine-{name}-{index}", daemon=True)
            for index in range(len(engines))
        ]
        for thread in self._threads:
            thread.start()

    @property
    def queued_rows(self) -> int:
        """Rows in the queue now."""
        return self._scheduler.queue.rows

    @property
    def max_queue_rows(self) -> int:
        """Capacity of the queue in rows, all priority levels together."""
        return sum(level.max_rows for level in self.policy.levels)

    @property
    def pending_rows(self) -> int:
        """Rows in the queue or in an engine now."""
        return self._scheduler.queue.rows + self._scheduler.running_rows

    @property
    def requests_in_flight(self) -> int:
        """Requests in the queue or in an engine now."""
        with self._lock:
            return len(self._scheduler.queue) + self._scheduler.running_requests

    # --- requests ---

    def submit(self, request: PendingRequest) -> None:
        """Put the request in the queue, and wake an engine for it.

        Raises:
            InvalidArgument: the model has no such priority level.
            QueueFull: the request exceeds the free capacity of the queue.
            DeadlineExceeded: the deadline has passed, or the estimated wait exceeds it.
            NotReady: the engine is broken.
            BatcherClosed: the batcher is closed; another version may have replaced this one.
        """
        now = self._clock()
        with self._lock:
            self._admit(request, now)
            woken = self._scheduler.wake(now)
        self._wake(woken)

    def submit_burst(
        self,
        requests: Iterable[R],
        refuse: Callable[[R, Exception], None],
        receive: Callable[[], bool] | None = None,
        *,
        inline_seconds: float = math.inf,
    ) -> None:
        """Put requests that arrived together in the queue. Calls `refuse` with what `submit` would raise.

        With `receive`, batches below `inline_seconds` and below the policy's limit run on the calling thread. Between
        batches, `receive` submits the requests that arrived meanwhile. The thread returns when that is False, when no
        request is left, or if the next batch is long.
        """
        refused: list[tuple[R, Exception]] = []
        now = self._clock()
        with self._lock:
            for request in requests:
                try:
                    self._admit(request, now)
                except (ServiceError, BatcherClosed) as error:
                    refused.append((request, error))
            turn = self._scheduler.claim(now, inline_seconds) if receive and inline_seconds else None
            woken = self._scheduler.wake(now) if turn is None else ()
        self._wake(woken)
        for request, problem in refused:
            refuse(request, problem)
        if turn and receive:
            self._run_inline(turn, receive, inline_seconds)

    def cancel(self, request: PendingRequest) -> bool:
        """Remove the request from the queue; False if it is no longer queued."""
        with self._lock:
            return self._scheduler.cancel(request)

    def _admit(self, request: PendingRequest, now: float) -> None:
        if self.broken:
            raise NotReady(f"model {self.name!r}: {self.broken}")
        self._scheduler.admit(request, now)
        if request.timeout and request.deadline is not None and request.deadline < self._timer_at:
            self._watch_timeouts()

    # --- the end ---

    def close(self) -> None:
        """Refuse new requests; the engine threads answer the queued ones and end."""
        with self._lock:
            woken = self._scheduler.close(self._clock())
            self._timer_changed.notify()
        self._wake(woken)

    def join(self, timeout: float | None = None) -> bool:
        """After `close`, wait for the engine threads to end; False if they still run after `timeout` seconds."""
        limit = None if timeout is None else time.monotonic() + timeout
        for thread in self._threads:
            thread.join(None if limit is None else max(0.0, limit - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def fail_pending(self, error: ServiceError) -> None:
        """Fail every queued request with `error` and empty the queue."""
        with self._lock:
            requests = self._scheduler.queue.clear()
        for request in requests:
            request.refuse(error)

    def _break(self, reason: str) -> None:
        """Fail all queued requests, close, and report the engine as broken; once."""
        with self._lock:
            first = not self.broken
            self.broken = self.broken or reason
        if first:
            log.critical("engine broken", model=self.name, reason=reason)
            self.fail_pending(NotReady(f"model {self.name!r}: {reason}"))
            self.close()
            self._on_broken()

    # --- engines ---

    def _run_engine(self, index: int) -> None:
        """The engine thread: take turns until the scheduler ends them. If it fails, the engine is broken."""
        try:
            self._take_turns(index)
        except Exception as error:
            log.exception("engine thread failed", model=self.name)
            self._break(f"an engine's thread failed ({type(error).__name__}); see the server's log")

    def _take_turns(self, index: int) -> None:
        turn = self._turn(index)
        while not turn.ended:
            if turn.batch is not None:
                self._execute(turn.batch)
                turn = self._turn(index, turn.batch)
            else:
                self._sleep(index, turn.sleep_until)
                turn = self._turn(index)
        with self._lock:
            self._timer_changed.notify()  # the queue is empty, so the timer can end too

    def _turn(self, index: int, finished: Batch | None = None) -> Turn:
        """The engine's next turn, after the batch that it `finished`."""
        now = self._clock()
        with self._lock:
            if finished is not None:
                self._scheduler.finish(finished, now)
            turn = self._scheduler.turn(index, now)
        self._wake(turn.wake)
        _fail_expired(turn.expired, self._clock)
        return turn

    def _sleep(self, index: int, until: float) -> None:
        """Sleep until the engine is woken, at the latest until the time `until`."""
        # Without a time it sleeps until it is woken: a thread that woke by itself could meet one that runs inline.
        self._wakeups[index].wait(None if until == math.inf else min(max(0.0, until - self._clock()), MAX_WAIT_SECONDS))

    def _run_inline(self, turn: Turn, receive: Callable[[], bool], inline_seconds: float) -> None:
        """Run batches in place of the only engine's thread, beginning with this turn."""
        scheduler = self._scheduler
        following: Turn | None = turn
        while following is not None:
            _fail_expired(following.expired, self._clock)
            if following.batch is None:
                return  # every request had expired: the engine is idle again
            self._execute(following.batch)
            now = self._clock()
            with self._lock:
                scheduler.finish(following.batch, now)
                woken = None if scheduler.queue.rows else scheduler.release(now)
            if woken is not None:  # no request is left; the server receives the next calls by itself
                self._wake(woken)
                return
            following = self._next_inline_turn(receive, inline_seconds)

    def _next_inline_turn(self, receive: Callable[[], bool], inline_seconds: float) -> Turn | None:
        """Receive, and take the engine's next turn; or give the engine back to its thread."""
        received = False
        try:
            received = receive()
        finally:
            now = self._clock()
            with self._lock:
                turn = self._scheduler.next_claim(now, inline_seconds) if received else None
                woken = self._scheduler.release(now) if turn is None else ()
            self._wake(woken)
        return turn

    def _execute(self, batch: Batch) -> None:
        """Run a batch and answer its requests, whatever happens."""
        engine, sequencer = self._engines[batch.engine], self._sequencer
        try:
            if sequencer is None:
                self._executor.execute(engine, batch.requests, batch.closed_by)
            else:
                with sequencer.turn(batch.number) as wait_turn:
                    self._executor.execute(engine, batch.requests, batch.closed_by, wait_turn)
        except Exception as error:
            log.exception("engine thread failed", model=self.name)
            self._break(f"an engine's thread failed ({type(error).__name__}); see the server's log")
            for request in batch.requests:
                request.refuse(NotReady(f"model {self.name!r}: {self.broken}"))

    def _wake(self, engines: Sequence[int]) -> None:
        for engine in engines:
            self._wakeups[engine].set()

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
                expired, self._timer_at = self._scheduler.expire(self._clock())
                if not expired:
                    if self._scheduler.closed and not self._scheduler.queue:
                        return
                    wait = min(max(0.0, self._timer_at - self._clock()), MAX_WAIT_SECONDS)
                    self._timer_changed.wait(wait)
            _fail_expired(expired, self._clock)


class _Wakeup:
    """An event that wakes one thread, once for each `set`; a lock, because that is the fastest way in Python."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def set(self) -> None:
        """Wake the thread, or make its next wait return at once."""
        with contextlib.suppress(RuntimeError):  # it is set already, and the thread has not yet woken
            self._lock.release()

    def wait(self, seconds: float | None) -> None:
        """Sleep until the event is set, at most `seconds`; None for no limit."""
        self._lock.acquire(timeout=-1 if seconds is None else seconds)


def _fail_expired(requests: Iterable[PendingRequest], clock: Callable[[], float]) -> None:
    for request in requests:
        now = clock()
        problem = "passed" if request.deadline is None or request.deadline <= now else "can no longer be met"
        waited = now - request.arrived
        request.refuse(DeadlineExceeded(f"the deadline {problem} after {waited * 1e3:.0f} ms in the queue"))
