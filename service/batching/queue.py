"""What waits in front of a model's engines, and in which order it leaves.

Owns, for one model version: the priority levels, each first come first served and bounded in rows; which requests form
the next batch; which have waited too long. Does not own: locking, threads, time (batcher.py has all three).

The rules are those of Triton's dynamic_batching, whose names they keep:
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
    """What waits: inputs with `rows` rows, until when it makes sense, and how to answer. Times are on one clock.

    `timeout` is the time in seconds that the caller grants the queue, beside its deadline; 0 for none.
    `priority` is a level, 1 being served first; 0 takes the model's default.
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
        # The queue's own notes: its place among the levels, and when it has to let all others there pass.
        self.level = 0
        self.late_at: float | None = None
        self.late = False

    @abstractmethod
    def prepare(self, outputs: Outputs, first: int, end: int) -> None:
        """Make the answer from this request's rows of every output: `first` up to `end`."""

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
class QueuePolicy:
    """How one priority level waits: Triton's ModelQueuePolicy, in rows and seconds."""

    max_rows: int
    timeout: float = 0.0  # of requests that bring none; 0 for none
    timeout_override: bool = True  # whether a request may bring a shorter one
    delay_late: bool = False  # what has timed out waits on, behind all others of its level, instead of failing


@dataclass
class _Level:
    policy: QueuePolicy
    rows: int = 0


Part = OrderedDict[PendingRequest, None]


class RequestQueue:
    """Requests that wait. `default_level` is the place of requests without a priority among `levels`, from 0."""

    def __init__(self, levels: Sequence[QueuePolicy], default_level: int = 0) -> None:
        self.rows = 0
        self._levels = [_Level(policy) for policy in levels]
        self._default = default_level
        self._plain = len(levels) == 1 and not levels[0].timeout
        # In the order in which they are emptied: each level, and then what is late in it.
        self._parts: list[Part] = [OrderedDict() for _ in range(2 * len(levels))]

    def __bool__(self) -> bool:
        """Whether any request waits."""
        return self.rows > 0

    def __len__(self) -> int:
        """The number of requests that wait."""
        return sum(map(len, self._parts))

    def __iter__(self) -> Iterator[PendingRequest]:
        """All that wait, in the order in which they would leave now."""
        for part in self._parts:
            yield from part

    def admit(self, request: PendingRequest) -> None:
        """Settle the request's level, and from the level's policy until when it may wait.

        Raises:
            InvalidArgument: its priority is none of the model's.
        """
        if self._plain and not request.timeout:
            return  # one level, without time limits
        levels = len(self._levels)
        if levels == 1 or not request.priority:
            request.level = self._default  # without levels a priority means nothing, as in Triton
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
        """Rows that wait in the request's level, and how many may."""
        level = self._levels[request.level]
        return level.rows, level.policy.max_rows

    def rows_ahead(self, request: PendingRequest) -> int:
        """Rows that leave before the request would."""
        if len(self._levels) == 1:
            return self.rows
        return sum(level.rows for level in self._levels[: request.level + 1])

    def push(self, request: PendingRequest) -> None:
        """Put the request at the end of its level."""
        self._parts[2 * request.level + request.late][request] = None
        self._levels[request.level].rows += request.rows
        self.rows += request.rows

    def remove(self, request: PendingRequest) -> bool:
        """Take the request out; False if it does not wait."""
        part = self._part_of(request)
        if request not in part:
            return False
        self._drop(request, part)
        return True

    def clear(self) -> list[PendingRequest]:
        """Take everything out."""
        requests = list(self)
        for part in self._parts:
            part.clear()
        for level in self._levels:
            level.rows = 0
        self.rows = 0
        return requests

    def take(
        self, limit: int, now: float, *, done: float, fixed_shapes: bool, preferred: Set[int] = frozenset()
    ) -> tuple[list[PendingRequest], str | None, list[PendingRequest]]:
        """The next batch of at most `limit` rows, what closed it, and the requests whose deadline is not to be met.

        These are the ones that have expired, and those that would have when the batch is `done`: they would cost
        others their time for nothing. But where none else waits, it is tried; `done` is only an estimate.

        A batch ends before the first request that does not fit, which none overtakes: "full". Where it can have a
        preferred number of rows, it gets the largest of them: "preferred". None closed it if the queue was emptied.
        """
        batch: list[PendingRequest] = []
        expired: list[PendingRequest] = []
        closed_by = None
        rows, key = 0, None
        for part in self._parts:
            while part:
                request = next(iter(part))
                if request.deadline is not None and (
                    request.deadline <= now or (request.deadline < done and (batch or self.rows > request.rows))
                ):
                    self._drop(request, part)
                    expired.append(request)
                    continue
                if request.late_at is not None and request.late_at <= now and not request.late:
                    del part[request]
                    request.late = True
                    self._part_of(request)[request] = None
                    continue
                if batch and (rows + request.rows > limit or (key is not None and request.shape_key != key)):
                    closed_by = "full"
                    break
                if not batch and not fixed_shapes:
                    key = request.shape_key
                self._drop(request, part)
                batch.append(request)
                rows += request.rows
            if closed_by:
                break
        if rows >= limit:
            closed_by = "full"
        if preferred and batch and rows not in preferred:
            fitting = _preferred_length(batch, preferred)
            if fitting:
                self._put_back(batch[fitting:])
                batch, closed_by = batch[:fitting], "preferred"
        return batch, closed_by, expired

    def can_form(self, preferred: Set[int]) -> bool:
        """Whether the requests at the front have a preferred number of rows."""
        return _preferred_length(self, preferred) > 0

    def drop_expired(self, now: float) -> list[PendingRequest]:
        """Take out every request whose time is over."""
        expired = [request for request in self if request.deadline is not None and request.deadline <= now]
        for request in expired:
            self.remove(request)
        return expired

    def next_timeout(self) -> float:
        """When the first of the requests that we must fail, for the wire will not, runs out of time; or infinity."""
        return min((r.deadline for r in self if r.timeout and r.deadline is not None), default=math.inf)

    def _part_of(self, request: PendingRequest) -> Part:
        return self._parts[2 * request.level + request.late]

    def _drop(self, request: PendingRequest, part: Part) -> None:
        del part[request]
        self._count(request, -request.rows)

    def _put_back(self, requests: Sequence[PendingRequest]) -> None:
        """Return requests that were taken to the front, in their order."""
        for request in reversed(requests):
            part = self._part_of(request)
            part[request] = None
            part.move_to_end(request, last=False)
            self._count(request, request.rows)

    def _count(self, request: PendingRequest, rows: int) -> None:
        self.rows += rows
        self._levels[request.level].rows += rows


def _preferred_length(requests: Iterable[PendingRequest], preferred: Set[int]) -> int:
    """How many requests from the front have the largest preferred number of rows together; 0 where none have."""
    rows = length = 0
    largest = max(preferred)
    for index, request in enumerate(requests, start=1):
        rows += request.rows
        if rows > largest:
            break
        if rows in preferred:
            length = index
    return length
