"""Merging the metrics of several workers into one service's."""

from service.telemetry.merge import Family, merged


def family(name: str, kind: str, *samples: tuple[str, dict[str, str], float]) -> Family:
    return name, "Help.", kind, list(samples)


def test_counters_are_summed_and_each_gauge_follows_its_own_rule() -> None:
    first = [
        family("inference_rows", "counter", ("inference_rows_total", {"model": "m"}, 3.0)),
        family("inference_queue_rows", "gauge", ("inference_queue_rows", {"model": "m"}, 1.0)),
        family("inference_requests_in_flight", "gauge", ("inference_requests_in_flight", {"model": "m"}, 4.0)),
        family("inference_model_ready", "gauge", ("inference_model_ready", {"model": "m"}, 1.0)),
        family("inference_batch_max_abs_diff", "gauge", ("inference_batch_max_abs_diff", {"model": "m"}, 1e-7)),
    ]
    second = [
        family(
            "inference_rows",
            "counter",
            ("inference_rows_total", {"model": "m"}, 4.0),
            ("inference_rows_total", {"model": "n"}, 5.0),
        ),
        family("inference_queue_rows", "gauge", ("inference_queue_rows", {"model": "m"}, 2.0)),
        family("inference_requests_in_flight", "gauge", ("inference_requests_in_flight", {"model": "m"}, 3.0)),
        family("inference_model_ready", "gauge", ("inference_model_ready", {"model": "m"}, 0.0)),
        family("inference_batch_max_abs_diff", "gauge", ("inference_batch_max_abs_diff", {"model": "m"}, 3e-7)),
    ]
    values = {
        (sample.name, sample.labels["model"]): sample.value
        for metric in merged([first, second])
        for sample in metric.samples
    }
    assert values == {
        ("inference_rows_total", "m"): 7.0,
        ("inference_rows_total", "n"): 5.0,
        ("inference_queue_rows", "m"): 3.0,
        ("inference_requests_in_flight", "m"): 7.0,
        ("inference_model_ready", "m"): 0.0,
        ("inference_batch_max_abs_diff", "m"): 3e-7,
    }
