"""Statistics of one model version, updated once a batch.

Owns the counters and histograms behind both /metrics and ModelStatistics, so that the two always agree. A batch is
recorded before its responses are sent and tallied afterwards, at the latest by a reader: who has a response finds it
counted, and no response waits for histograms. Durations are in seconds. Not here: predicted classes (predictions.py),
the formats of metrics (telemetry) and of gRPC (transport).
"""

import contextlib
import threading
import time
from bisect import bisect_left
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

# Upper bounds of the duration buckets, from 50 µs to 10 s.
DURATION_BUCKETS = (
    50e-6, 100e-6, 200e-6, 300e-6, 500e-6, 750e-6, 1e-3, 1.5e-3, 2e-3, 3e-3, 5e-3, 7.5e-3,
    10e-3, 15e-3, 20e-3, 30e-3, 50e-3, 75e-3, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0,
)  # fmt: skip
ROW_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Histogram:
    """Counts by bucket. Not thread-safe: the caller holds a lock."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)  # the last counts values above every bound
        self.sum = 0.0

    def observe(self, values: Iterable[float]) -> None:
        """Count each value in the first bucket whose upper bound is at least the value."""
        bounds, counts = self.bounds, self.counts
        last, bucket, total = -1.0, 0, 0.0
        for value in values:
            if value != last:  # requests of one burst have the same duration: look its bucket up once
                last, bucket = value, bisect_left(bounds, value)
            counts[bucket] += 1
            total += value
        self.sum += total

    def cumulative(self) -> list[tuple[str, float]]:
        """(upper bound, number of values up to it) pairs, as Prometheus expects them."""
        result, running = [], 0
        for bound, count in zip((*map(str, self.bounds), "+Inf"), self.counts, strict=True):
            running += count
            result.append((bound, float(running)))
        return result


@dataclass(slots=True)  # not frozen: that would cost more than counting a request
class ExecutedBatch:
    """One execution: its rows, the reason that closed it, and the duration of each part in seconds."""

    rows: int
    closed_by: str
    queued: Sequence[float]  # for each request, from arrival to the start of the batch
    total: Sequence[float]  # for each request, from arrival to its encoded response
    gather: float  # concatenating the inputs
    compute: float
    scatter: float  # encoding the responses
    padding: int = 0  # additional rows that only pad the batch


@dataclass
class SizeStatistics:
    """Number of executions of one batch size, and the total seconds of each part."""

    executions: int = 0
    gather: float = 0.0
    compute: float = 0.0
    scatter: float = 0.0


@dataclass
class Statistics:
    """Counters and histograms of one model version since it was loaded. Read them inside of `reading`."""

    by_size: defaultdict[int, SizeStatistics] = field(default_factory=lambda: defaultdict(SizeStatistics))
    closed_by: Counter[str] = field(default_factory=Counter)
    codes: Counter[str] = field(default_factory=Counter)  # ended requests by gRPC status name
    rows: int = 0
    padding_rows: int = 0
    failed_seconds: float = 0.0  # total duration of failed requests
    gather_seconds: float = 0.0  # this and the next two: summed over requests, as ModelStatistics reports them
    compute_seconds: float = 0.0
    scatter_seconds: float = 0.0
    last_inference: float = 0.0  # seconds since the epoch
    duration: Histogram = field(default_factory=lambda: Histogram(DURATION_BUCKETS))
    queue: Histogram = field(default_factory=lambda: Histogram(DURATION_BUCKETS))
    compute: Histogram = field(default_factory=lambda: Histogram(DURATION_BUCKETS))
    batch_rows: Histogram = field(default_factory=lambda: Histogram(ROW_BUCKETS))
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _recorded: deque[ExecutedBatch] = field(default_factory=deque)  # and not tallied; deques need no lock

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """Hold the lock, with every recorded batch tallied."""
        with self._lock:
            self._tally()
            yield

    @property
    def executions(self) -> int:
        """Number of batches that completed."""
        return sum(size.executions for size in self.by_size.values())

    def record_batch(self, batch: ExecutedBatch) -> None:
        """Count a completed execution and its answered requests. Call `tally` once the responses are sent."""
        self._recorded.append(batch)

    def tally(self) -> None:
        """Add what is recorded to the counters and histograms."""
        with self._lock:
            self._tally()

    def _tally(self) -> None:
        while self._recorded:
            self._add(self._recorded.popleft())

    def _add(self, batch: ExecutedBatch) -> None:
        requests = len(batch.total)
        size = self.by_size[batch.rows]
        size.executions += 1
        size.gather += batch.gather
        size.compute += batch.compute
        size.scatter += batch.scatter
        self.closed_by[batch.closed_by] += 1
        self.codes["OK"] += requests
        self.rows += batch.rows
        self.padding_rows += batch.padding
        self.gather_seconds += batch.gather * requests
        self.compute_seconds += batch.compute * requests
        self.scatter_seconds += batch.scatter * requests
        self.last_inference = time.time()
        self.duration.observe(batch.total)
        self.queue.observe(batch.queued)
        self.compute.observe((batch.compute,))
        self.batch_rows.observe((batch.rows,))

    def record_failure(self, code: str, seconds: float) -> None:
        """Count a request that failed with status `code`, `seconds` after it arrived."""
        with self._lock:
            self.codes[code] += 1
            self.failed_seconds += seconds
