"""The request queue of one model version: order, capacity, timeouts and batch composition.

Owns: the priority levels, each a FIFO bounded in rows; which requests form the next batch; which
requests have timed out. Not here: locking, threads, the clock (all in batcher.py).

The rules and their names are those of Triton's dynamic_batching:
https://docs.nvidia.com/deeplearning/triton-inference-server/user-guide/docs/user_guide/batcher.html
"""

import math
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass

from service.core.errors import InvalidArgument, ServiceError
from service.core.spec import Arrays, Outputs


class PendingRequest(ABC):
    """A queued request: its inputs of `rows` rows, its time limits, and how to answer it. Times are on one clock.

    `timeout` is the caller's limit on the time in the queue, in seconds, beside its deadline; 0 for none.
    `priority` is a level, 1 is served first; 0 takes the model's default.
    """

    __slots__ = ("arrived", "deadline", "inputs", "late", "late_at", "level", "priority", "rows", "timeout")

    def __init__(
        self,
        inputs: Arrays,
        rows: int,
        arrived: float,
        deadline: float | None = None,
        timeout: float = 0.0,
        priority: int = 0,
    ) -> None:
        self.inputs = inputs
        self.rows = rows
        self.arrived = arrived
        self.deadline = deadline
        self.timeout = timeout
        self.priority = priority
        # Set by the queue:
        self.level = 0  # its priority level, from 0
        self.late_at: float | None = None  # when it moves behind the rest of its level
        self.late = False  # whether it has moved

    @abstractmethod
    def prepare(self, outputs: Outputs, first: int, end: int) -> None:
        """Encode the response from this request's rows of every output: `first` up to `end`."""

    @abstractmethod
    def send(self) -> None:
        """Send the prepared response. Either `send` or `fail` is called, once."""

    @abstractmethod
    def fail(self, error: ServiceError) -> None:
        """Send the error. Either `send` or `fail` is called, once."""

    @property
    def shape_key(self) -> tuple[tuple[int, ...], ...]:
        """The shapes without the first axis. Requests with equal keys can share a batch."""
        return tuple(array.shape[1:] for array in self.inputs)


@dataclass(frozen=True)
class QueuePolicy:
    """Capacity and timeout of one priority level: Triton's ModelQueuePolicy, in rows and seconds."""

    max_rows: int
    timeout: float = 0.0  # of requests that set none; 0 for none
    timeout_override: bool = True  # whether a request may set a shorter one
    delay_late: bool = False  # requests that time out move behind the rest of their level instead of failing


@dataclass
class _Level:
    policy: QueuePolicy
    rows: int = 0


Fifo = OrderedDict[PendingRequest, None]  # an ordered set


class RequestQueue:
    """Pending requests by priority level. Requests without a priority go to `levels[default_level]`."""

    def __init__(self, levels: Sequence[QueuePolicy], default_level: int = 0) -> None:
        self.rows = 0
        self._levels = [_Level(policy) for policy in levels]
        self._default = default_level
        self._single_untimed_level = len(levels) == 1 and not levels[0].timeout
        # Two for each level, in the order in which they are emptied: requests in time, then late ones.
        self._fifos: list[Fifo] = [OrderedDict() for _ in range(2 * len(levels))]

    def __bool__(self) -> bool:
        """Whether any request is queued."""
        return self.rows > 0

    def __len__(self) -> int:
        """The number of queued requests."""
        return sum(map(len, self._fifos))

    def __iter__(self) -> Iterator[PendingRequest]:
        """All queued requests, in the order in which they leave."""
        for fifo in self._fifos:
            yield from fifo

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

    def level_rows(self, request: PendingRequest) -> tuple[int, int]:
        """Rows queued in the request's level, and that level's capacity."""
        level = self._levels[request.level]
        return level.rows, level.policy.max_rows

    def rows_ahead(self, request: PendingRequest) -> int:
        """Queued rows that would leave before the request."""
        if len(self._levels) == 1:
            return self.rows
        return sum(level.rows for level in self._levels[: request.level + 1])

    def push(self, request: PendingRequest) -> None:
        """Append the request to its level."""
        self._fifos[2 * request.level + request.late][request] = None
        self._levels[request.level].rows += request.rows
        self.rows += request.rows

    def remove(self, request: PendingRequest) -> bool:
        """Remove the request; False if it is not queued."""
        fifo = self._fifo_of(request)
        if request not in fifo:
            return False
        self._take_out(request, fifo)
        return True

    def clear(self) -> list[PendingRequest]:
        """Remove and return all requests."""
        requests = list(self)
        for fifo in self._fifos:
            fifo.clear()
        for level in self._levels:
            level.rows = 0
        self.rows = 0
        return requests

    def take(
        self, limit: int, now: float, *, expected_end: float, fixed_shapes: bool, preferred: Set[int] = frozenset()
    ) -> tuple[list[PendingRequest], str | None, list[PendingRequest]]:
        """Take the next batch of at most `limit` rows: its requests, the reason that closed it, the expired requests.

        A request is expired if its deadline has passed, or passes before `expected_end` of the batch: computing it
        would delay the others for nothing. A request that is alone in the queue runs even so, because `expected_end`
        is an estimate.

        A batch ends before the first request that does not fit, so that no later request overtakes it: "full". If it
        can have a preferred number of rows, it gets the largest of them: "preferred". The reason is None if the batch
        empties the queue.
        """
        batch: list[PendingRequest] = []
        expired: list[PendingRequest] = []
        closed_by = None
        rows, key = 0, None
        for fifo in self._fifos:
            while fifo:
                request = next(iter(fifo))
                if request.deadline is not None and (
                    request.deadline <= now or (request.deadline < expected_end and (batch or self.rows > request.rows))
                ):
                    self._take_out(request, fifo)
                    expired.append(request)
                    continue
                if request.late_at is not None and request.late_at <= now and not request.late:
                    del fifo[request]
                    request.late = True
                    self._fifo_of(request)[request] = None
                    continue
                if batch and (rows + request.rows > limit or (key is not None and request.shape_key != key)):
                    closed_by = "full"
                    break
                if not batch and not fixed_shapes:
                    key = request.shape_key
                self._take_out(request, fifo)
                batch.append(request)
                rows += request.rows
            if closed_by:
                break
        if rows >= limit:
            closed_by = "full"
        if preferred and batch and rows not in preferred:
            length = _preferred_length(batch, preferred)
            if length:
                self._put_back(batch[length:])
                batch, closed_by = batch[:length], "preferred"
        return batch, closed_by, expired

    def can_form(self, preferred: Set[int]) -> bool:
        """Whether the first requests add up to a preferred number of rows."""
        return _preferred_length(self, preferred) > 0

    def drop_expired(self, now: float) -> list[PendingRequest]:
        """Remove and return every request whose deadline has passed."""
        expired = [request for request in self if request.deadline is not None and request.deadline <= now]
        for request in expired:
            self.remove(request)
        return expired

    def next_timeout(self) -> float:
        """The earliest deadline that comes from a timeout (the transport enforces the others); infinity if none."""
        return min((r.deadline for r in self if r.timeout and r.deadline is not None), default=math.inf)

    def _fifo_of(self, request: PendingRequest) -> Fifo:
        return self._fifos[2 * request.level + request.late]

    def _take_out(self, request: PendingRequest, fifo: Fifo) -> None:
        del fifo[request]
        self._count(request, -request.rows)

    def _put_back(self, requests: Sequence[PendingRequest]) -> None:
        """Put taken requests back at the head of the queue, in their order."""
        for request in reversed(requests):
            fifo = self._fifo_of(request)
            fifo[request] = None
            fifo.move_to_end(request, last=False)
            self._count(request, request.rows)

    def _count(self, request: PendingRequest, rows: int) -> None:
        self.rows += rows
        self._levels[request.level].rows += rows


def _preferred_length(requests: Iterable[PendingRequest], preferred: Set[int]) -> int:
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
