"""The metrics of a service with workers: merged reports, and how the workers fare."""

from service.telemetry.merge import Family
from service.telemetry.workers import EXIT, SILENT, STATES, WorkersCollector


def rows(count: float) -> list[Family]:
    """A report with a counter and a gauge."""
    return [
        ("inference_rows", "", "counter", [("inference_rows_total", {}, count)]),
        ("inference_queue_rows", "", "gauge", [("inference_queue_rows", {}, count)]),
    ]


def samples(collector: WorkersCollector) -> dict[str, float]:
    return {
        sample.name + "".join(sample.labels.values()): sample.value
        for family in collector.collect()
        for sample in family.samples
    }


def test_a_counter_never_falls_when_a_worker_exits_and_its_gauges_go() -> None:
    collector = WorkersCollector(list)
    collector.update(0, rows(3))
    collector.update(1, rows(4))
    collector.update(1, rows(5))
    assert samples(collector)["inference_rows_total"] == 8
    collector.retire(1)
    assert samples(collector)["inference_rows_total"] == 8
    assert samples(collector)["inference_queue_rows"] == 3
    collector.update(1, rows(2))
    collector.retire(1)
    collector.retire(1)
    assert samples(collector)["inference_rows_total"] == 10


def test_workers_are_counted_by_state_and_restarts_by_reason_from_zero_on() -> None:
    collector = WorkersCollector(lambda: ["ready", "restarting", "ready"])
    seen = samples(collector)
    assert {state: seen[f"inference_workers{state}"] for state in STATES} == {
        "starting": 0,
        "ready": 2,
        "unready": 0,
        "stopping": 0,
        "restarting": 1,
    }
    assert seen[f"inference_worker_restarts_total{EXIT}"] == seen[f"inference_worker_restarts_total{SILENT}"] == 0
    collector.restarted(SILENT)
    assert samples(collector)[f"inference_worker_restarts_total{SILENT}"] == 1
