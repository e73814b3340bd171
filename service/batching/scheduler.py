"""The rules of batching, without threads and without a clock: events and the time in, decisions out.

Owns: admission; when a batch starts, and on which engine; which engines to wake; which requests to drop; the estimate
of each engine's speed. The events are the methods of Scheduler. Not here: the order of the queue and batch composition
(queue.py), the threads that act on the decisions (batcher.py).

    idle ──wake──► woken ──turn──► busy ──finish, turn──► busy, or idle if no batch may start
      └──────────────claim───────────┘     (a server's thread runs batches in place of the engine's thread)

An engine is never idle while a batch may start: either it is woken, or another woken engine takes that batch.
"""

import math
from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import NoReturn

from service.batching.queue import PendingRequest, QueuePolicy, RequestQueue, preferred_length
from service.core.batch_sizes import padded
from service.core.errors import DeadlineExceeded, QueueFull

# Safety factor on the estimated time when it is compared with a deadline.
ESTIMATE_MARGIN = 1.1
# Weight of the newest batch in an engine's estimate.
NEWEST_WEIGHT = 0.2
# Seconds after which a caller may try again, at least; also while there is no estimate.
MIN_RETRY_SECONDS = 0.01
# Memory of the queued requests of one model version, in bytes.
MAX_QUEUE_BYTES = 256 * 2**20


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
    inline_below_seconds: float = 0.005  # a server's thread may run batches whose estimate is below this; 0 for none
    max_queue_bytes: int = MAX_QUEUE_BYTES


@dataclass(slots=True)  # not frozen: that would cost a microsecond
class Batch:
    """A batch that starts now on an engine."""

    engine: int
    requests: Sequence[PendingRequest]
    rows: int
    closed_by: str
    number: int  # batches are numbered from 0 in the order in which they start
    started: float


@dataclass(slots=True)
class Turn:
    """What an engine does next: run `batch`; or, without one, sleep until it is woken or until `sleep_until`.

    `ended`: the scheduler is closed and the queue is empty. `expired` requests are to be failed, and the engines in
    `wake` to be woken.
    """

    batch: Batch | None = None
    ended: bool = False
    sleep_until: float = math.inf
    expired: Sequence[PendingRequest] = ()
    wake: Sequence[int] = ()


@dataclass(slots=True)
class _Engine:
    """What is known of an engine's speed and of the batch that it runs."""

    seconds_per_row: float = 0.0  # moving average; 0 before the first batch
    busy_until: float = -math.inf  # estimated end of its batch


class Scheduler:
    """The state of one model version's queue and engines; the engines are numbered from 0.

    `fixed_shapes` means that all requests have equal shapes apart from the first axis, so these are not compared.
    Not thread-safe: the caller holds a lock around every call. `now` never decreases.
    """

    def __init__(self, policy: BatchingPolicy, engines: int, *, fixed_shapes: bool = True) -> None:
        self.policy = policy
        self.queue = RequestQueue(policy.levels, policy.default_level)
        self.closed = False
        self.running_rows = 0
        self.running_requests = 0
        self._fixed_shapes = fixed_shapes
        self._engines = [_Engine() for _ in range(engines)]
        # Idle engines, each with the time at which it takes a turn by itself. The one that ran last is woken first.
        self._idle: dict[int, float] = {}
        self._woken = set(range(engines))  # a thread that starts takes its first turn by itself
        self._batches = 0

    # --- events of requests ---

    def admit(self, request: PendingRequest, now: float) -> None:
        """Put the request in the queue. Call `wake` afterwards, once for all requests that arrived together.

        Raises:
            InvalidArgument: the model has no such priority level.
            QueueFull: the request exceeds the free capacity of its level or of the queue.
            DeadlineExceeded: the deadline has passed, or the estimated wait exceeds it.
            BatcherClosed: the scheduler is closed.
        """
        if self.closed:
            raise BatcherClosed
        queue = self.queue
        queue.admit(request)
        if queue.is_full(request) or (queue.bytes and queue.bytes + request.size > self.policy.max_queue_bytes):
            self._refuse_full(request, now)
        if request.deadline is not None:
            self._check_deadline(request, request.deadline, now)
        queue.push(request)

    def wake(self, now: float) -> Sequence[int]:
        """The engines to wake so that no engine is idle while a batch may start."""
        if not self._idle or not (self.queue.rows or self.closed):
            return ()
        if self.closed:
            return self._wake(len(self._idle))
        start, _ = self._next_start()
        if start <= now:
            # At least one batch for each full batch of rows. An engine that takes a batch wakes the next engine.
            return self._wake(math.ceil(self.queue.rows / self.policy.max_batch_size) - len(self._woken))
        if start < min(self._idle.values()) and not self._woken:
            return self._wake(1)  # it sleeps again, but not as long
        return ()

    def cancel(self, request: PendingRequest) -> bool:
        """Remove the request from the queue; False if it is no longer queued."""
        return self.queue.remove(request)

    def expire(self, now: float) -> tuple[list[PendingRequest], float]:
        """Remove and return the requests whose deadline has passed, and when the next request times out."""
        return self.queue.drop_expired(now), self.queue.next_timeout()

    def close(self, now: float) -> Sequence[int]:
        """Admit no more requests. Returns the engines to wake; they run what is queued, and then their turns end."""
        self.closed = True
        return self.wake(now)

    # --- events of engines ---

    def turn(self, engine: int, now: float) -> Turn:
        """What the engine does now: it was woken, its sleep is over, or it finished a batch."""
        self._woken.discard(engine)
        self._idle.pop(engine, None)
        expired: list[PendingRequest] = []
        while self.queue:
            start, closed_by = self._next_start()
            if start > now:
                self._idle[engine] = start
                return Turn(sleep_until=start, expired=expired)
            batch = self._form(engine, closed_by, now, expired)
            if batch is not None:
                return Turn(batch, expired=expired, wake=self.wake(now) if self._idle else ())
        if self.closed:
            return Turn(ended=True, expired=expired)
        self._idle[engine] = math.inf
        return Turn(expired=expired)

    def finish(self, batch: Batch, now: float) -> None:
        """The engine has run the batch and answered its requests; it takes its next turn at once."""
        self.running_rows -= batch.rows
        self.running_requests -= len(batch.requests)
        engine = self._engines[batch.engine]
        engine.busy_until = -math.inf
        sizes = self.policy.sizes
        seconds = (now - batch.started) / (padded(batch.rows, sizes) if sizes else batch.rows)
        before = engine.seconds_per_row or seconds
        engine.seconds_per_row = (1 - NEWEST_WEIGHT) * before + NEWEST_WEIGHT * seconds

    # --- events of a server's thread that runs batches in place of engine 0 ---

    def claim(self, now: float, longest: float = math.inf) -> Turn | None:
        """The next turn of the engine, if it is idle and a server's thread may take that turn.

        Only a batch that is expected to take less than `longest` seconds and the policy's limit, and only on the only
        engine: with another one, calls that the thread does not receive meanwhile could have started there.
        """
        if len(self._engines) > 1 or self.policy.max_delay or not self._idle:
            return None
        return self.next_claim(now, longest)

    def next_claim(self, now: float, longest: float = math.inf) -> Turn | None:
        """The next turn after a claimed batch was finished; None to give the engine back, by `release`."""
        queued = self.queue.rows
        if not queued or self.closed:
            return None
        seconds = self._run_seconds(0, min(queued, self.policy.max_batch_size))
        return self.turn(0, now) if 0 < seconds < min(longest, self.policy.inline_below_seconds) else None

    def release(self, now: float) -> Sequence[int]:
        """Give the engine back after its claimed batch was finished. Returns the engines to wake."""
        self._idle[0] = math.inf
        return self.wake(now)

    # --- rules ---

    def _wake(self, count: int) -> Sequence[int]:
        woken = [self._idle.popitem()[0] for _ in range(min(count, len(self._idle)))]
        self._woken.update(woken)
        return woken

    def _next_start(self) -> tuple[float, str]:
        """When the next batch starts, in the past for now, and the reason that closes it. The queue is not empty."""
        policy, queue = self.policy, self.queue
        if not policy.max_delay or queue.rows >= policy.max_batch_size or self.closed:
            return -math.inf, "engine_free"
        if policy.preferred and preferred_length(queue, policy.preferred):
            return -math.inf, "preferred"
        start, closed_by = min([request.arrived for request in queue]) + policy.max_delay, "delay"
        earliest = min((request.deadline for request in queue if request.deadline is not None), default=None)
        if earliest is not None:
            # Allow twice the estimate, because run times vary. Without an estimate, start now.
            estimate = max(self._run_seconds(engine, queue.rows) for engine in range(len(self._engines)))
            latest_start = earliest - 2 * estimate - 1e-3 if estimate else -math.inf
            if latest_start < start:
                return latest_start, "deadline"
        return start, closed_by

    def _form(self, engine: int, closed_by: str, now: float, expired: list[PendingRequest]) -> Batch | None:
        """Take the next batch from the queue; None if every request expired. Adds the requests dropped to `expired`.

        A request is dropped if its deadline has passed, or passes before the estimated end of the batch: computing it
        would delay the others for nothing. The last request in the queue runs even so, because that is an estimate.
        """
        queue, policy = self.queue, self.policy
        while True:
            if queue.timed:
                expired += queue.settle(now, policy.max_batch_size)
            requests, full = queue.head(policy.max_batch_size, fixed_shapes=self._fixed_shapes)
            if not requests:
                return None
            rows = sum([request.rows for request in requests])
            if not queue.timed:
                break
            late = self._would_be_late(requests, now + ESTIMATE_MARGIN * self._run_seconds(engine, rows))
            if not late:
                break
            if gone := queue.drop_expired(now):  # so that none is dropped in favour of these
                expired += gone
            else:
                queue.take(late)
                expired += late
        # When the queue delay is over, the batch takes everything that fits.
        if policy.preferred and rows not in policy.preferred and closed_by not in ("delay", "deadline"):
            length = preferred_length(requests, policy.preferred) or len(requests)
            if length < len(requests):
                requests, full, closed_by = requests[:length], False, "preferred"
                rows = sum([request.rows for request in requests])
        queue.take(requests)
        self.running_rows += rows
        self.running_requests += len(requests)
        self._engines[engine].busy_until = now + self._run_seconds(engine, rows)
        self._batches += 1
        return Batch(engine, requests, rows, "full" if full else closed_by, self._batches - 1, now)

    def _would_be_late(self, requests: Sequence[PendingRequest], end: float) -> Sequence[PendingRequest]:
        """The requests whose deadline is before `end`, but not the last one in the queue."""
        late = [request for request in requests if request.deadline is not None and request.deadline < end]
        return late[:-1] if len(late) == len(self.queue) else late

    def _run_seconds(self, engine: int, rows: int) -> float:
        """Estimated seconds of a run on the engine; 0 before the first run of any engine."""
        seconds = self._engines[engine].seconds_per_row
        if not seconds and len(self._engines) > 1:
            seconds = max(other.seconds_per_row for other in self._engines)
        return seconds * (padded(rows, self.policy.sizes) if self.policy.sizes else rows)

    def _estimate(self, request: PendingRequest, now: float) -> tuple[float, float]:
        """Estimated seconds until the request starts, and of its run, if it were queued now.

        The batches ahead start on the engines in turn, each on the engine that is free first.
        """
        full, rows = self.policy.max_batch_size, request.rows
        rows_ahead, requests_ahead = self.queue.ahead(request)
        batches = min((rows_ahead + rows - 1) // full, requests_ahead)
        free = sorted([(max(0.0, engine.busy_until - now), index) for index, engine in enumerate(self._engines)])
        rounds, turn = divmod(batches, len(self._engines))
        start, engine = free[turn]
        if rounds:
            # A request with more rows than a batch runs alone, so batches can be larger than `full`.
            batch_rows = max(min(rows_ahead // batches, full), math.ceil(rows_ahead / requests_ahead))
            seconds = [self._run_seconds(index, batch_rows) for index in range(len(self._engines))]
            start += rounds * len(seconds) / sum([1 / each for each in seconds]) if all(seconds) else 0.0
        return start, self._run_seconds(engine, max(rows, min(rows_ahead + rows - batches * full, full)))

    def _check_deadline(self, request: PendingRequest, deadline: float, now: float) -> None:
        if deadline <= now:
            raise DeadlineExceeded("the deadline had passed when the request arrived")
        ahead, _ = self.queue.ahead(request)
        if not ahead and len(self._idle) + len(self._woken) > 0:
            return  # nothing delays it: run it even if the estimate is too long, and so update the estimate
        start, run = self._estimate(request, now)
        if now + ESTIMATE_MARGIN * (start + run) > deadline:
            raise DeadlineExceeded(
                f"the deadline cannot be met: {ahead + self.running_rows} rows are ahead, about "
                f"{(start + run) * 1e3:.0f} ms of work, and {(deadline - now) * 1e3:.0f} ms are left"
            )

    def _refuse_full(self, request: PendingRequest, now: float) -> NoReturn:
        queue = self.queue
        start, _ = self._estimate(request, now)
        retry_after = max(start, MIN_RETRY_SECONDS)
        if queue.is_full(request):
            raise QueueFull(*queue.level_rows(request), retry_after=retry_after)
        raise QueueFull(queue.bytes, self.policy.max_queue_bytes, retry_after=retry_after, unit="bytes")
