"""Merges the metrics of several workers into one service's.

Owns the rule for each kind of metric, and the form in which metrics travel between processes. Not here: asking the
workers (app/supervisor.py).
"""

from collections.abc import Callable, Iterable, Sequence

from prometheus_client.core import Metric

# A metric on its way between processes: name, documentation, type, and samples.
Sample = tuple[str, dict[str, str], float]
Family = tuple[str, str, str, list[Sample]]

# Gauges that add up over workers, and gauges of which the smallest value counts. Of all others the largest does.
SUMMED_GAUGES = (
    "inference_queue_rows",
    "inference_max_queue_rows",
    "inference_requests_in_flight",
    "process_resident_memory_bytes",
    "process_virtual_memory_bytes",
    "process_open_fds",
)
MINIMUM_GAUGES = ("inference_model_ready", "process_start_time_seconds")


def merged(sources: Iterable[Sequence[Family]]) -> list[Metric]:
    """One metric of each name: counters and histograms are summed, gauges follow the lists above."""
    result: dict[str, Metric] = {}
    values: dict[tuple[str, str, tuple[tuple[str, str], ...]], float] = {}
    for source in sources:
        for name, documentation, kind, samples in source:
            result.setdefault(name, Metric(name, documentation, kind))
            for sample, labels, value in samples:
                key = (name, sample, tuple(sorted(labels.items())))
                known = values.get(key)
                values[key] = value if known is None else _rule(name, kind)([known, value])
    for (name, sample, labels_of), value in values.items():
        result[name].add_sample(sample, dict(labels_of), value)
    return list(result.values())


def families(metrics: Iterable[Metric]) -> list[Family]:
    """The metrics in the form that travels between processes."""
    return [
        (metric.name, metric.documentation, metric.type, [(s.name, dict(s.labels), s.value) for s in metric.samples])
        for metric in metrics
    ]


def _rule(name: str, kind: str) -> Callable[[Iterable[float]], float]:
    if kind in ("counter", "histogram") or name in SUMMED_GAUGES:
        return sum
    return min if name in MINIMUM_GAUGES else max
