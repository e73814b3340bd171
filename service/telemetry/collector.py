"""The service's Prometheus metrics.

Owns the names, labels and help texts, on which dashboards and alerts rely. A scrape reads each model's Statistics; no
request runs this code. Label values come from loaded models, never from a request. Not here: counting
(batching/statistics.py, batching/predictions.py).
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from service.batching.statistics import Statistics
from service.core.version import VERSION, commit
from service.inference.handler import InferenceHandler
from service.inference.picture_decoder import PictureDecoder
from service.models.loader import LoadedModel
from service.models.registry import Registry, State, VersionStatus


def metrics_registry(*collectors: Collector) -> CollectorRegistry:
    """The metrics of one process: the collectors' metrics, its memory and its processor time."""
    registry = CollectorRegistry()
    for collector in collectors:
        registry.register(collector)
    ProcessCollector(registry=registry)
    return registry


class ServiceCollector(Collector):
    """All metrics of the service, made at scrape time."""

    def __init__(
        self, registry: Registry, handler: InferenceHandler, decoder: PictureDecoder, grpc_server: str
    ) -> None:
        self._registry = registry
        self._handler = handler
        self._decoder = decoder
        self._server_info = [grpc_server, VERSION, commit()]

    def collect(self) -> Iterator[Metric]:
        """Every metric once."""
        snapshot = self._registry.snapshot
        models = sorted(snapshot.models(), key=lambda model: (model.spec.name, model.spec.version))
        yield self._requests(models)
        yield from _counters(models)
        yield from _histograms(models)
        yield from _gauges(models)
        yield from _decoding(self._decoder)
        yield from _predictions(models)
        yield from _reported(models)
        yield from _states(snapshot.index())
        info = GaugeMetricFamily(
            "inference_server_info",
            "The gRPC server, version and commit that run; always 1.",
            labels=["grpc_server", "version", "commit"],
        )
        info.add_metric(self._server_info, 1)
        yield info

    def _requests(self, models: Iterable[LoadedModel]) -> Metric:
        family = CounterMetricFamily(
            "inference_requests",
            "Requests by gRPC status code; requests that reached no model have an empty model label.",
            labels=["model", "version", "code"],
        )
        sources: list[tuple[list[str], Statistics]] = [(_labels(model), model.statistics) for model in models]
        for labels, statistics in [*sources, (["", ""], self._handler.unrouted_statistics)]:
            with statistics.reading():
                for code, count in sorted(statistics.codes.items()):
                    family.add_metric([*labels, code], count)
        return family


def _states(index: Iterable[VersionStatus]) -> Iterator[Metric]:
    ready = GaugeMetricFamily(
        "inference_model_ready", "Whether the version answers requests: 1 or 0.", labels=["model", "version"]
    )
    refused = GaugeMetricFamily(
        "inference_model_refused",
        "1 for each version whose files are refused or whose engine is broken. The reason is one of files, "
        "configuration, graph, golden, device, engine and error; RepositoryIndex and the log have its text.",
        labels=["model", "version", "reason"],
    )
    for status in index:
        labels = [status.name, str(status.version or "")]
        ready.add_metric(labels, float(status.state is State.READY))
        if status.code:
            refused.add_metric([*labels, status.code], 1)
    yield from (ready, refused)


@dataclass(frozen=True)
class _Family:
    """A metric with one value a model version."""

    name: str
    help: str
    read: Callable[[Statistics], Any]


COUNTERS = (
    _Family("inference_rows", "Rows computed.", lambda s: s.rows),
    _Family("inference_padding_rows", "Rows computed only to fill a batch up to its size.", lambda s: s.padding_rows),
)
HISTOGRAMS = (
    _Family(
        "inference_request_duration_seconds", "From arrival to answer, of requests answered OK.", lambda s: s.duration
    ),
    _Family(
        "inference_queue_duration_seconds", "From arrival to the start of the batch, per request.", lambda s: s.queue
    ),
    _Family("inference_compute_duration_seconds", "Time in the engine, per batch.", lambda s: s.compute),
    _Family("inference_batch_rows", "Rows per batch, without padding.", lambda s: s.batch_rows),
)


def _labels(model: LoadedModel) -> list[str]:
    return [model.spec.name, str(model.spec.version)]


def _counters(models: Iterable[LoadedModel]) -> Iterator[Metric]:
    for family in COUNTERS:
        metric = CounterMetricFamily(family.name, family.help, labels=["model", "version"])
        for model in models:
            with model.statistics.reading():
                metric.add_metric(_labels(model), family.read(model.statistics))
        yield metric
    batches = CounterMetricFamily(
        "inference_batches",
        "Batches by the reason they closed: full, engine_free, preferred, delay, deadline.",
        labels=["model", "version", "closed_by"],
    )
    for model in models:
        with model.statistics.reading():
            for reason, count in sorted(model.statistics.closed_by.items()):
                batches.add_metric([*_labels(model), reason], count)
    yield batches


def _histograms(models: Iterable[LoadedModel]) -> Iterator[Metric]:
    for family in HISTOGRAMS:
        metric = HistogramMetricFamily(family.name, family.help, labels=["model", "version"])
        for model in models:
            with model.statistics.reading():
                histogram = family.read(model.statistics)
                metric.add_metric(_labels(model), histogram.cumulative(), histogram.sum)
        yield metric


def _gauges(models: Iterable[LoadedModel]) -> Iterator[Metric]:
    queue = GaugeMetricFamily("inference_queue_rows", "Rows in the queue now.", labels=["model", "version"])
    limit = GaugeMetricFamily(
        "inference_max_queue_rows",
        "Rows that the queue holds before it may refuse requests.",
        labels=["model", "version"],
    )
    in_flight = GaugeMetricFamily(
        "inference_requests_in_flight", "Requests in the queue or in an engine now.", labels=["model", "version"]
    )
    seconds = GaugeMetricFamily(
        "inference_model_load_seconds", "Time to load and verify the version.", labels=["model", "version"]
    )
    batch_max_abs_diff = GaugeMetricFamily(
        "inference_batch_max_abs_diff",
        "Largest difference between a golden answer computed alone and in a batch, measured at load.",
        labels=["model", "version"],
    )
    info = GaugeMetricFamily(
        "inference_model_info",
        "The device, provider and file that serve the version; always 1.",
        labels=["model", "version", "device", "provider", "sha256", "verified"],
    )
    for model in models:
        queue.add_metric(_labels(model), model.batcher.queued_rows)
        limit.add_metric(_labels(model), model.batcher.max_queue_rows)
        in_flight.add_metric(_labels(model), model.batcher.requests_in_flight)
        seconds.add_metric(_labels(model), model.load_seconds)
        if model.batch_max_abs_diff is not None:
            batch_max_abs_diff.add_metric(_labels(model), model.batch_max_abs_diff)
        verified = str(model.verified).lower()
        info.add_metric([*_labels(model), model.device, model.provider, model.sha256, verified], 1)
    yield from (queue, limit, in_flight, seconds, batch_max_abs_diff, info)


def _decoding(decoder: PictureDecoder) -> Iterator[Metric]:
    """Decoding of pictures, which all models share."""
    yield GaugeMetricFamily(
        "inference_decode_queue_pictures", "Pictures of Classify calls that wait to be decoded.", value=decoder.waiting
    )
    with decoder.statistics.lock:
        for name, text, histogram in (
            (
                "inference_decode_queue_duration_seconds",
                "From arrival to the start of decoding, per picture.",
                decoder.statistics.wait,
            ),
            (
                "inference_decode_duration_seconds",
                "Time to decode a picture and fit it to the model, per picture.",
                decoder.statistics.decode,
            ),
        ):
            yield HistogramMetricFamily(name, text, buckets=histogram.cumulative(), sum_value=histogram.sum)


def _predictions(models: Iterable[LoadedModel]) -> Iterator[Metric]:
    """Predicted classes and their confidence, of models with class labels."""
    classes = CounterMetricFamily(
        "inference_predictions",
        "Rows by the class with the highest value, of models with class labels.",
        labels=["model", "version", "class"],
    )
    confidence = HistogramMetricFamily(
        "inference_prediction_confidence",
        "The highest value of each row, of models with class labels.",
        labels=["model", "version"],
    )
    for model in models:
        if model.predictions:
            counts, buckets, total = model.predictions.read()
            for label, count in counts.items():
                classes.add_metric([*_labels(model), label], count)
            confidence.add_metric(_labels(model), buckets, total)
    yield from (classes, confidence)


def _reported(models: Iterable[LoadedModel]) -> Iterator[Metric]:
    """Metrics that the training job measured on its test set, from the manifest: the reference for drift."""
    accuracy = GaugeMetricFamily(
        "inference_model_reported_accuracy", "Accuracy on the test set, from the manifest.", labels=["model", "version"]
    )
    confidence = GaugeMetricFamily(
        "inference_model_reported_confidence",
        "Mean of the highest probability on the test set, from the manifest.",
        labels=["model", "version"],
    )
    shares = GaugeMetricFamily(
        "inference_model_reported_predictions_ratio",
        "Share of each class among the predictions on the test set, from the manifest.",
        labels=["model", "version", "class"],
    )
    for model in models:
        if model.reported.test_accuracy is not None:
            accuracy.add_metric(_labels(model), model.reported.test_accuracy)
        if model.reported.test_confidence is not None:
            confidence.add_metric(_labels(model), model.reported.test_confidence)
        if model.predictions:
            by_label: dict[str, float] = {}
            for label, share in zip(model.predictions.labels, model.reported.shares, strict=False):
                by_label[label] = by_label.get(label, 0.0) + share
            for label, share in by_label.items():
                shares.add_metric([*_labels(model), label], share)
    yield from (accuracy, confidence, shares)
