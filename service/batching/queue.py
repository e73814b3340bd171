"""The request queue of one model version: order, capacity, timeouts and batch composition.

Owns: the priority levels, each a FIFO bounded in rows; the bound in bytes; which requests form the next batch; which
requests have timed out. Not here: when a batch starts (scheduler.py), locking, threads and the clock (batcher.py).

The rules and their names are those of Triton's dynamic_batching:
https://docs.nvidia.com/deeplearning/triton-inference-server/user-guide/docs/user_guide/batcher.html
"""

import math
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass

import structlog

from service.core.errors import InvalidArgument, ServiceError
from service.core.spec import Arrays, Outputs

log = structlog.get_logger(__name__)


class PendingRequest(ABC):
    """A queued request: its inputs of `rows` rows, its time limits, and how to answer it. Times are on one clock.

    `timeout` is the caller's limit on the time in the queue, in seconds, beside its deadline; 0 for none.
    `priority` is a level, 1 is served first; 0 takes the model's default. `size` is the memory that it holds, in bytes.
    """

    __slots__ = (
        "answered", "arrived", "deadline", "inputs", "late", "late_at", "level", "priority", "rows", "size", "timeout",
    )  # fmt: skip

    def __init__(
        self,
        inputs: Arrays,
        rows: int,
        arrived: float,
        deadline: float | None = None,
        timeout: float = 0.0,
        priority: int = 0,
        size: int = 0,
    ) -> None:
        self.inputs = inputs
        self.rows = rows
        self.arrived = arrived
        self.deadline = deadline
        self.timeout = timeout
        self.priority = priority
        self.size = size
        self.answered = False  # whether `answer` or `refuse` was called
        # Set by the queue:
        self.level = 0  # its priority level, from 0
        self.late_at: float | None = None  # when it moves behind the rest of its level
        self.late = False  # whether it has moved

    @abstractmethod
    def prepare(self, outputs: Outputs, first: int, end: int) -> None:
        """Encode the response from this request's rows of every output: `first` up to `end`."""

    @abstractmethod
    def send(self) -> None:
        """Send the prepared response."""

    @abstractmethod
    def fail(self, error: ServiceError) -> None:
        """Count the error and send it."""

    def answer(self) -> None:
        """Send the prepared response. An exception is logged: one caller must not affect another, nor an engine."""
        self.answered = True
        try:
            self.send()
        except Exception:
            log.exception("response not sent")

    def refuse(self, error: ServiceError) -> None:
        """Send the error, unless the request was answered already. An exception is logged, as in `answer`."""
        if self.answered:
            return
        self.answered = True
        try:
            self.fail(error)
        except Exception:
            log.exception("response not sent")

    @property
    def shape_key(self) -> tuple[tuple[int, ...], ...]:
        """The shapes without the first axis. Requests with equal keys can share a batch."""
        return tuple(array.shape[1:] for array in self.inputs)


@dataclass(frozen=True)
class QueuePolicy:
    """Capacity and timeout of one priority level: Triton's ModelQueuePolicy, in rows and seconds.

    The level is full if it holds `max_rows` rows and at least `min_requests` requests.
    """

    max_rows: int
    min_requests: int = 0
    timeout: float = 0.0  # of requests that set none; 0 for none
    timeout_override: bool = True  # whether a request may set a shorter one
    delay_late: bool = False  # requests that time out move behind the rest of their level instead of failing


@dataclass
class _Level:
    policy: QueuePolicy
    rows: int = 0
    requests: int = 0


Fifo = OrderedDict[PendingRequest, None]  # an ordered set


class RequestQueue:
    """Pending requests by priority level. Requests without a priority go to `levels[default_level]`."""

    def __init__(self, levels: Sequence[QueuePolicy], default_level: int = 0) -> None:
        self.rows = 0
        self.bytes = 0
        self.timed = 0  # requests with a deadline or a time at which they become late
        self._requests = 0
        self._levels = [_Level(policy) for policy in levels]
        self._default = default_level
        self._single_untimed_level = len(levels) == 1 and not levels[0].timeout
        self._smallest_limit = min(level.max_rows for level in levels)  # with fewer rows in all, no level is full
        # Two for each level, in the order in which they are emptied: requests in time, then late ones.
        self._fifos: list[Fifo] = [OrderedDict() for _ in range(2 * len(levels))]

    def __bool__(self) -> bool:
        """Whether any request is queued."""
        return self.rows > 0

    def __len__(self) -> int:
        """The number of queued requests."""
        return self._requests

    def __iter__(self) -> Iterator[PendingRequest]:
        """All queued requests, in the order in which they leave."""
        for fifo in self._fifos:
            yield from fifo

    # --- arrival ---

    def admit(self, request: PendingRequest) -> None:
        """Set the request's level from its priority, and its time limits from the level's policy.

        Raises:
            InvalidArgument: the model has no such priority level.
        """
        if self._single_untimed_level and not request.timeout:
            return  # nothing to set
        levels = len(self._levels)
        if levels == 1 or not request.priority:
            request.level = self._default  # a model without levels ignores priorities, as Triton does
        elif request.priority <= levels:
            request.level = request.priority - 1
        else:
            raise InvalidArgument(
                "parameters.priority", f"priority expected 1 to {levels} or 0 for the default, got {request.priority}"
            )
        policy = self._levels[request.level].policy
        timeout = policy.timeout
        if request.timeout and (not timeout or (policy.timeout_override and request.timeout < timeout)):
            timeout = request.timeout
        request.timeout = timeout
        if not timeout:
            return
        if policy.delay_late:
            request.late_at = request.arrived + timeout
        elif request.deadline is None or request.deadline > request.arrived + timeout:
            request.deadline = request.arrived + timeout

    def is_full(self, request: PendingRequest) -> bool:
        """Whether the request's level has no room for its rows."""
        if self.rows + request.rows <= self._smallest_limit:
            return False
        level = self._levels[request.level]
        policy = level.policy
        return level.rows + request.rows > policy.max_rows and level.requests >= policy.min_requests

    def level_rows(self, request: PendingRequest) -> tuple[int, int]:
        """Rows queued in the request's level, and that level's capacity."""
        level = self._levels[request.level]
        return level.rows, level.policy.max_rows

    def ahead(self, request: PendingRequest) -> tuple[int, int]:
        """Queued rows and requests that would leave before the request."""
        if len(self._levels) == 1:
            return self.rows, self._levels[0].requests
        levels = self._levels[: request.level + 1]
        return sum([level.rows for level in levels]), sum([level.requests for level in levels])

    def push(self, request: PendingRequest) -> None:
        """Append the request to its level."""
        self._fifo_of(request)[request] = None
        self._count(request, 1)

    # --- departure ---

    def remove(self, request: PendingRequest) -> bool:
        """Remove the request; False if it is not queued."""
        fifo = self._fifo_of(request)
        if request not in fifo:
            return False
        del fifo[request]
        self._count(request, -1)
        return True

    def clear(self) -> list[PendingRequest]:
        """Remove and return all requests."""
        requests = list(self)
        self._empty()
        return requests

    def _empty(self) -> None:
        for fifo in self._fifos:
            fifo.clear()
        for level in self._levels:
            level.rows = level.requests = 0
        self.rows = self.bytes = self.timed = self._requests = 0

    def settle(self, now: float, limit: int) -> list[PendingRequest]:
        """Bring the first `limit` rows up to date: remove and return expired requests, move late ones back."""
        expired: list[PendingRequest] = []
        rows = 0
        for fifo in self._fifos:
            gone, late = [], []
            for request in fifo:
                if request.deadline is not None and request.deadline <= now:
                    gone.append(request)
                elif request.late_at is not None and request.late_at <= now and not request.late:
                    late.append(request)
                else:
                    rows += request.rows
                    if rows >= limit:
                        break
            self.take([*gone, *late])
            expired += gone
            for request in late:
                request.late = True
                self.push(request)
            if rows >= limit:
                break
        return expired

    def head(self, limit: int, *, fixed_shapes: bool) -> tuple[list[PendingRequest], bool]:
        """The first requests that can share a batch of at most `limit` rows, and whether that batch is full.

        The batch ends before the first request that does not fit or has another shape, so that no later request
        overtakes it. A first request with more rows than `limit` is a batch of its own.
        """
        batch: list[PendingRequest] = []
        rows, key = 0, None
        for fifo in self._fifos:
            for request in fifo:
                if batch and (rows + request.rows > limit or (key is not None and request.shape_key != key)):
                    return batch, True
                if not batch and not fixed_shapes:
                    key = request.shape_key
                batch.append(request)
                rows += request.rows
                if rows >= limit:
                    return batch, True
        return batch, False

    def take(self, requests: Sequence[PendingRequest]) -> None:
        """Remove requests that are queued."""
        if len(requests) == self._requests:
            self._empty()
            return
        for request in requests:
            del self._fifo_of(request)[request]
            self._count(request, -1)

    # --- times ---

    def drop_expired(self, now: float) -> list[PendingRequest]:
        """Remove and return every request whose deadline has passed."""
        expired = [request for request in self if request.deadline is not None and request.deadline <= now]
        self.take(expired)
        return expired

    def next_timeout(self) -> float:
        """The earliest deadline that comes from a timeout (the transport enforces the others); infinity if none."""
        return min((r.deadline for r in self if r.timeout and r.deadline is not None), default=math.inf)

    def _fifo_of(self, request: PendingRequest) -> Fifo:
        return self._fifos[2 * request.level + request.late]

    def _count(self, request: PendingRequest, sign: int) -> None:
        level = self._levels[request.level]
        level.rows += sign * request.rows
        level.requests += sign
        self._requests += sign
        self.rows += sign * request.rows
        self.bytes += sign * request.size
        if request.deadline is not None or request.late_at is not None:
            self.timed += sign


def preferred_length(requests: Iterable[PendingRequest], preferred: Set[int]) -> int:
    """How many of the first requests add up to the largest possible preferred number of rows; 0 if none do."""
    rows = length = 0
    largest = max(preferred)
    for index, request in enumerate(requests, start=1):
        rows += request.rows
        if rows > largest:
            break
        if rows in preferred:
            length = index
    return length
