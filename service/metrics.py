"""What Prometheus reads, and the two probes, over HTTP.

Owns: the names, labels and help texts of the metrics (a dashboard's contract) and the endpoints /metrics, /livez and
/readyz. The numbers themselves are each model's Statistics, read when somebody asks; the hot path never comes here.
Label values come from loaded models, never from a request.
"""

import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import ThreadingWSGIServer
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from service.loader import LoadedModel
from service.protocol import Inference
from service.registry import UNLOADED, Registry, State
from service.servicers import SERVER_VERSION
from service.statistics import Statistics

# Of a reason, in characters; the log and RepositoryIndex have the whole.
LONGEST_REASON = 200
# A client that says nothing for so long loses its connection.
HTTP_TIMEOUT_SECONDS = 5
MAX_CONNECTIONS = 32


class ServiceCollector(Collector):
    """All of the service's metrics, made from the statistics at the time of asking."""

    def __init__(self, registry: Registry, inference: Inference, front: str) -> None:
        self._registry = registry
        self._inference = inference
        self._front = front

    def collect(self) -> Iterator[Metric]:
        """Every family once."""
        models = sorted(self._registry.models(), key=lambda model: (model.spec.name, model.spec.version))
        yield self._requests(models)
        yield from _counters(models)
        yield from _histograms(models)
        yield from _gauges(models)
        yield from _predictions(models)
        yield from _tested(models)
        ready = GaugeMetricFamily(
            "inference_model_ready", "Whether the version answers: 1 or 0.", labels=["model", "version"]
        )
        refused = GaugeMetricFamily(
            "inference_model_refused",
            "1 for each version that should answer and does not, and why.",
            labels=["model", "version", "reason"],
        )
        for status in self._registry.index():
            labels = [status.name, str(status.version or "")]
            ready.add_metric(labels, float(status.state is State.READY))
            if status.state is State.UNAVAILABLE and status.reason != UNLOADED:
                refused.add_metric([*labels, status.reason[:LONGEST_REASON]], 1)
        yield from (ready, refused)
        info = GaugeMetricFamily(
            "service_info", "The front and version that run; always 1.", labels=["front", "version"]
        )
        info.add_metric([self._front, SERVER_VERSION], 1)
        yield info

    def _requests(self, models: Iterable[LoadedModel]) -> Metric:
        family = CounterMetricFamily(
            "inference_requests",
            "Requests answered, by gRPC status; those that reached no model have an empty model label.",
            labels=["model", "version", "code"],
        )
        sources: list[tuple[list[str], Statistics]] = [(_labels(model), model.statistics) for model in models]
        for labels, statistics in [*sources, (["", ""], self._inference.unrouted)]:
            with statistics.lock:
                for code, count in sorted(statistics.codes.items()):
                    family.add_metric([*labels, code], count)
        return family


@dataclass(frozen=True)
class _Family:
    """A metric with one value a model version."""

    name: str
    help: str
    read: Callable[[Statistics], Any]


COUNTERS = (
    _Family("inference_rows", "Rows computed.", lambda s: s.rows),
    _Family("inference_padding_rows", "Rows computed only to fill a batch to a size.", lambda s: s.padding_rows),
)
HISTOGRAMS = (
    _Family(
        "inference_request_duration_seconds", "From arrival to answer, of answered requests.", lambda s: s.duration
    ),
    _Family("inference_queue_duration_seconds", "From arrival to the start of the batch.", lambda s: s.queue),
    _Family("inference_compute_duration_seconds", "Of a batch in the engine.", lambda s: s.compute),
    _Family("inference_batch_rows", "Rows a batch.", lambda s: s.batch_rows),
)


def _labels(model: LoadedModel) -> list[str]:
    return [model.spec.name, str(model.spec.version)]


def _counters(models: Iterable[LoadedModel]) -> Iterator[Metric]:
    for family in COUNTERS:
        metric = CounterMetricFamily(family.name, family.help, labels=["model", "version"])
        for model in models:
            metric.add_metric(_labels(model), family.read(model.statistics))
        yield metric
    batches = CounterMetricFamily(
        "inference_batches",
        "Batches, by why they closed: full, idle (an engine was free), preferred, delay, deadline.",
        labels=["model", "version", "closed_by"],
    )
    for model in models:
        with model.statistics.lock:
            for reason, count in sorted(model.statistics.closed_by.items()):
                batches.add_metric([*_labels(model), reason], count)
    yield batches


def _histograms(models: Iterable[LoadedModel]) -> Iterator[Metric]:
    for family in HISTOGRAMS:
        metric = HistogramMetricFamily(family.name, family.help, labels=["model", "version"])
        for model in models:
            with model.statistics.lock:
                histogram = family.read(model.statistics)
                metric.add_metric(_labels(model), histogram.cumulative(), histogram.sum)
        yield metric


def _gauges(models: Iterable[LoadedModel]) -> Iterator[Metric]:
    queue = GaugeMetricFamily("inference_queue_rows", "Rows that wait now.", labels=["model", "version"])
    limit = GaugeMetricFamily(
        "inference_queue_limit_rows", "Rows that may wait before requests are refused.", labels=["model", "version"]
    )
    seconds = GaugeMetricFamily(
        "inference_model_load_seconds", "How long loading and proving took.", labels=["model", "version"]
    )
    invariance = GaugeMetricFamily(
        "inference_batch_invariance",
        "Largest difference between a golden answer alone and in company, as measured when the version was loaded.",
        labels=["model", "version"],
    )
    info = GaugeMetricFamily(
        "inference_model_info",
        "What serves the version; always 1.",
        labels=["model", "version", "device", "provider", "sha256", "verified"],
    )
    for model in models:
        queue.add_metric(_labels(model), model.batcher.rows_waiting)
        limit.add_metric(_labels(model), model.batcher.rows_limit)
        seconds.add_metric(_labels(model), model.load_seconds)
        if model.invariance is not None:
            invariance.add_metric(_labels(model), model.invariance)
        verified = str(model.verified).lower()
        info.add_metric([*_labels(model), model.device, model.provider, model.sha256, verified], 1)
    yield from (queue, limit, seconds, invariance, info)


def _predictions(models: Iterable[LoadedModel]) -> Iterator[Metric]:
    """What models whose classes have labels said."""
    classes = CounterMetricFamily(
        "inference_predictions",
        "Rows by the class that got the highest value, of models whose classes have labels.",
        labels=["model", "version", "class"],
    )
    confidence = HistogramMetricFamily(
        "inference_prediction_confidence", "Of those rows, the highest value.", labels=["model", "version"]
    )
    for model in models:
        if model.predictions:
            counts, buckets, total = model.predictions.read()
            for label, count in counts.items():
                classes.add_metric([*_labels(model), label], count)
            confidence.add_metric(_labels(model), buckets, total)
    yield from (classes, confidence)


def _tested(models: Iterable[LoadedModel]) -> Iterator[Metric]:
    """What the job saw of its test set, where a manifest says so: what is served can be held against it."""
    accuracy = GaugeMetricFamily(
        "inference_model_test_accuracy", "Accuracy on the test set, from the manifest.", labels=["model", "version"]
    )
    confidence = GaugeMetricFamily(
        "inference_model_test_confidence",
        "Mean of the highest probability on the test set, from the manifest.",
        labels=["model", "version"],
    )
    shares = GaugeMetricFamily(
        "inference_model_test_predictions_ratio",
        "Share of each class among the predictions on the test set, from the manifest.",
        labels=["model", "version", "class"],
    )
    for model in models:
        if model.tested.test_accuracy is not None:
            accuracy.add_metric(_labels(model), model.tested.test_accuracy)
        if model.tested.test_confidence is not None:
            confidence.add_metric(_labels(model), model.tested.test_confidence)
        if model.predictions:
            by_label: dict[str, float] = {}
            for label, share in zip(model.predictions.labels, model.tested.shares, strict=False):
                by_label[label] = by_label.get(label, 0.0) + share
            for label, share in by_label.items():
                shares.add_metric([*_labels(model), label], share)
    yield from (accuracy, confidence, shares)


def registry_of(*collectors: Collector) -> CollectorRegistry:
    """What one process exposes: the collectors' metrics, and its own memory and processor time."""
    registry = CollectorRegistry()
    for collector in collectors:
        registry.register(collector)
    ProcessCollector(registry=registry)
    return registry


class MetricsServer:
    """The HTTP endpoints, on threads of their own.

    `not_ready_because` gives "" or the reason that /readyz answers with 503.

    Raises:
        OSError: the address is taken or cannot be bound.
    """

    def __init__(self, host: str, port: int, registry: CollectorRegistry, not_ready_because: Callable[[], str]) -> None:
        metrics: Callable[..., Iterable[bytes]] = make_wsgi_app(registry)

        def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
            match environ["PATH_INFO"]:
                case "/metrics":
                    return metrics(environ, start_response)
                case "/livez":
                    status, body = "200 OK", "live"
                case "/readyz":
                    reason = not_ready_because()
                    status, body = ("503 Service Unavailable", reason) if reason else ("200 OK", "ready")
                case _:
                    status, body = "404 Not Found", "there are /metrics, /livez and /readyz"
            start_response(status, [("Content-Type", "text/plain; charset=utf-8")])
            return [f"{body}\n".encode()]

        server = _V6Server if ":" in host else _Server
        self._server: WSGIServer = make_server(host, port, application, server, _Handler)
        self.port: int = self._server.server_port
        self.url = f"http://[{host}]:{self.port}/metrics" if ":" in host else f"http://{host}:{self.port}/metrics"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), name="metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop answering."""
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingWSGIServer):
    """A thread a connection, for so many connections; one more is closed at once."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, *arguments: Any) -> None:
        self._room = threading.BoundedSemaphore(MAX_CONNECTIONS)
        super().__init__(*arguments)

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._room.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()


class _V6Server(_Server):
    address_family = socket.AF_INET6


class _Handler(WSGIRequestHandler):
    timeout = HTTP_TIMEOUT_SECONDS

    def log_message(self, format: str, *args: object) -> None:
        """Probes come every second; none is worth a line."""
