"""Merges the metrics of several workers into one service's.

Owns the rule for each kind of metric, and the form in which processes exchange metrics. Not here: asking the workers
(app/supervisor.py).
"""

from collections.abc import Callable, Iterable, Sequence

from prometheus_client.core import Metric

# The form in which processes exchange metrics.
Sample = tuple[str, dict[str, str], float]  # name, labels, value
Family = tuple[str, str, str, list[Sample]]  # name, documentation, type, samples

# Gauges that are summed over the workers, and gauges that take the minimum. All other gauges take the maximum.
SUMMED_GAUGES = (
    "inference_queue_rows",
    "inference_max_queue_rows",
    "inference_requests_in_flight",
    "inference_decode_queue_pictures",
    "process_resident_memory_bytes",
    "process_virtual_memory_bytes",
    "process_open_fds",
)
MINIMUM_GAUGES = ("inference_model_ready", "process_start_time_seconds")


def merged(sources: Iterable[Sequence[Family]]) -> list[Metric]:
    """Each metric once: counters and histograms are summed, gauges follow the lists above."""
    result: dict[str, Metric] = {}
    values: dict[tuple[str, str, tuple[tuple[str, str], ...]], float] = {}
    for source in sources:
        for name, documentation, kind, samples in source:
            result.setdefault(name, Metric(name, documentation, kind))
            for sample, labels, value in samples:
                key = (name, sample, tuple(sorted(labels.items())))
                previous = values.get(key)
                values[key] = value if previous is None else _rule(name, kind)([previous, value])
    for (name, sample, label_pairs), value in values.items():
        result[name].add_sample(sample, dict(label_pairs), value)
    return list(result.values())


def families(metrics: Iterable[Metric]) -> list[Family]:
    """The metrics in the form in which processes exchange them."""
    return [
        (metric.name, metric.documentation, metric.type, [(s.name, dict(s.labels), s.value) for s in metric.samples])
        for metric in metrics
    ]


def _rule(name: str, kind: str) -> Callable[[Iterable[float]], float]:
    if kind in ("counter", "histogram") or name in SUMMED_GAUGES:
        return sum
    return min if name in MINIMUM_GAUGES else max
