"""The metrics of all workers as one service's, and how the workers fare.

Owns the last report of each worker, the counts of workers that exited, and the metrics of workers themselves. A scrape
asks no worker. Not here: the rules of merging (merge.py), the workers (app/supervisor.py).
"""

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from service.telemetry.merge import Family, families, merged

# The states of a worker and the reasons for which one is restarted, as label values.
STATES = ("starting", "ready", "unready", "stopping", "restarting")
EXIT, SILENT = "exit", "silent"


class WorkersCollector(Collector):
    """The metrics of all workers, by index; `states` gives the state of each of them, one of STATES."""

    def __init__(self, states: Callable[[], Iterable[str]]) -> None:
        self._states = states
        self._lock = threading.Lock()  # guards what follows; scrapes and reports come on threads of their own
        self._latest: dict[int, Sequence[Family]] = {}
        self._retired: Sequence[Family] = ()  # counters of processes that exited, as last reported
        self._restarts = Counter({EXIT: 0, SILENT: 0})

    def update(self, worker: int, metrics: Sequence[Family]) -> None:
        """Keep the metrics that the worker reported."""
        with self._lock:
            self._latest[worker] = metrics

    def retire(self, worker: int) -> None:
        """Keep the counts of a process that exited: a counter of the service must not fall."""
        with self._lock:
            latest = self._latest.pop(worker, ())
            counts = [family for family in latest if family[2] in ("counter", "histogram")]
            self._retired = families(merged([self._retired, counts]))

    def restarted(self, reason: str) -> None:
        """Count a restart, for the reason EXIT or SILENT."""
        with self._lock:
            self._restarts[reason] += 1

    def collect(self) -> Iterator[Metric]:
        """Every metric once."""
        with self._lock:
            metrics = merged([self._retired, *self._latest.values()])
        yield from metrics
        yield from self.own()

    def own(self) -> Iterator[Metric]:
        """The metrics of the workers themselves."""
        states = Counter(self._states())
        workers = GaugeMetricFamily(
            "inference_workers",
            "Workers by state: starting, ready, unready, stopping, restarting; with --workers.",
            labels=["state"],
        )
        for state in STATES:
            workers.add_metric([state], states[state])
        restarts = CounterMetricFamily(
            "inference_worker_restarts",
            "Workers that were restarted because they exited (exit) or stopped reporting (silent); with --workers.",
            labels=["reason"],
        )
        with self._lock:
            for reason, count in self._restarts.items():
                restarts.add_metric([reason], count)
        yield from (workers, restarts)
