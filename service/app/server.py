"""The life of the service: start, serve, stop.

Starting: open the metrics port first, so that the process is live and reports why it is not ready; then open the gRPC
port; then load the models, on a thread of its own; then be ready. A gRPC port that other processes share (`reuse_port`)
is opened last, once models answer. Stopping, on SIGTERM or Ctrl-C:

1. Lame duck: health says NOT_SERVING and /readyz 503 while calls are served for `lame_duck_seconds`. SIGTERM only.
2. On the aio server: accept no more connections; open ones reach their maximum age, and the server sends GOAWAY and
   serves on until clients reconnect elsewhere. SIGTERM only.
3. Draining: new calls are refused with UNAVAILABLE, pending calls are answered, within `shutdown_timeout_seconds`.
4. Once no more calls arrive, or after MAX_REFUSAL_SECONDS, the gRPC servers close; exit status 0.

A stop waits for no load and for no call of model control. An engine that breaks makes the service unready and stops it
in the same way. Not here: signals and the exit (process.py).
"""

import asyncio
import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path

import structlog
from prometheus_client import CollectorRegistry

from service.app.credentials import Credentials
from service.app.exposure import check_exposure, choose_grpc_server, log_exposure
from service.app.grpc_servers import GrpcServers
from service.app.served_models import ServedModels
from service.app.settings import Settings
from service.app.startup import check_repository, engine_options, open_metrics
from service.core.errors import Draining
from service.core.lifecycle import Lifecycle, Phase
from service.inference.classification import Classifier
from service.inference.handler import InferenceHandler
from service.inference.picture_decoder import PictureDecoder
from service.models.loader import LoadedModel, load
from service.models.reconciler import Reconciler
from service.models.registry import Registry
from service.models.repository.version_files import ModelFolder
from service.models.repository_thread import ChangeAbandoned, RepositoryThread
from service.telemetry.collector import ServiceCollector, metrics_registry
from service.telemetry.gpu import GpuCollector
from service.transport.grpc.aio_server import AioServer
from service.transport.grpc.classifier_servicer import ClassifierServicer
from service.transport.grpc.health_servicer import HealthServicer
from service.transport.grpc.inference_servicer import InferenceServicer
from service.transport.http.monitoring import MonitoringServer
from service.transport.tls import ServerTls

log = structlog.get_logger(__name__)

# The exit status.
ENGINE_BROKEN = 3

# Called with the server and its metrics; returns what to call when the server's state changes.
Attach = Callable[["Server", CollectorRegistry], Callable[[], None]]


class Server:
    """One service, from start to exit, on one event loop.

    With `attach` it opens no metrics port and hands its metrics over instead. Its Unix socket lies in `socket_folder`;
    without one, in a temporary folder.
    """

    def __init__(self, settings: Settings, *, attach: Attach | None = None, socket_folder: Path | None = None) -> None:
        self._settings = settings
        self._attach = attach
        self._state_changed: Callable[[], None] = lambda: None
        self._choice = choose_grpc_server(settings)
        self.grpc_server = self._choice.kind
        check_exposure(settings)
        self._credentials = Credentials(settings)
        self._engine_options = engine_options(settings)
        self.lifecycle = Lifecycle()
        self.registry = Registry(
            check_repository(settings),
            strict=settings.strict_readiness,
            on_change=lambda: self._call_on_loop(self._publish_state),
        )
        self.reconciler = Reconciler(settings.model_repository, self.registry, self._load)
        self._changes = RepositoryThread(
            self.reconciler.reconcile,
            poll_seconds=settings.repository_poll_seconds,
            on_scanned=lambda: self._call_on_loop(self._scanned),
        )
        self._models = ServedModels()
        self.handler = InferenceHandler(
            self.registry,
            self.lifecycle,
            max_message_bytes=settings.max_message_bytes,
            tokens=self._credentials.tokens,
        )
        self.decoder = PictureDecoder(settings.decode_memory_bytes)
        self._collector = ServiceCollector(self.registry, self.handler, self.decoder, self.grpc_server)
        self._classifier = Classifier(self.registry, self.decoder)
        self._health = HealthServicer()
        self._grpc = GrpcServers(settings, self.grpc_server, self.handler, socket_folder)
        self._metrics: MonitoringServer | None = None
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()  # ends the lame duck, and the wait for clients to leave
        self._status = 0
        self._failure: Exception | None = None

    async def run(self) -> int:
        """Serve until `request_stop`, or until an engine breaks. Returns the exit status.

        Raises:
            CannotStart: an address cannot be bound.
        """
        await self.start()
        await self._stop.wait()
        if self._failure:
            self._changes.close()
            self._credentials.close()
            self.remove_socket()
            raise self._failure
        await self.shut_down(lame_duck=0.0 if self._hurry.is_set() else self._settings.lame_duck_seconds)
        return self._status

    # --- start ---

    async def start(self) -> None:
        """Open the ports and start to load: the server is live now, and ready once its models are."""
        self._loop = asyncio.get_running_loop()
        self._started = time.perf_counter()
        metrics = metrics_registry(
            self._collector,
            GpuCollector(self._engine_options.devices, os.environ.get("CUDA_VISIBLE_DEVICES", "")),
        )
        if self._attach:
            self._state_changed = self._attach(self, metrics)
        else:
            log_exposure(self._settings, self._choice)
            self._credentials.log_doubt()
            self._metrics = open_metrics(self._settings, metrics, self.unready_reason, self._credentials.tls)
            self.metrics_url = self._metrics.url
        if not self._settings.reuse_port:
            await self._open_grpc()
        if self._metrics:
            log.info("metrics listening", url=self._metrics.url)
        self._credentials.watch()
        self._changes.start()

    async def _open_grpc(self) -> None:
        """Accept calls."""
        await self._grpc.open(self._make_aio, self._credentials.tls)
        self.grpc_address = self._grpc.address
        log.info("listening", grpc_server=self.grpc_server, address=self.grpc_address, pid=os.getpid())

    def _make_aio(self, address: str, max_connection_age_seconds: float, tls: ServerTls | None) -> AioServer:
        settings = self._settings
        return AioServer(
            address,
            self.handler,
            InferenceServicer(
                self.registry,
                self.reconciler,
                self._changes,
                self.lifecycle,
                enable_control=settings.enable_model_control,
            ),
            ClassifierServicer(self._classifier),
            self._health,
            max_message_bytes=settings.max_message_bytes,
            reuse_port=settings.reuse_port,
            max_connection_age_seconds=max_connection_age_seconds,
            credentials=tls.grpc_credentials() if tls else None,
        )

    def _load(self, folder: ModelFolder, version: int) -> LoadedModel:
        """Load a version, on the repository's thread. A load that ends after the stop changes nothing."""
        model = load(
            folder,
            version,
            self._engine_options,
            require_manifest=self._settings.require_manifest,
            on_broken=lambda: self._call_on_loop(self._engine_broke),
        )
        if self.lifecycle.stopping:
            model.batcher.close()
            raise ChangeAbandoned
        self._models.add(model)
        return model

    def _scanned(self) -> None:
        """The repository was scanned: after the first time, the server is ready if a model answers."""
        first = self.lifecycle.phase is Phase.STARTING
        self.lifecycle.advance(Phase.READY)
        self._publish_state()
        self._reporting = self._loop.create_task(self._report_readiness(first=first))

    async def _report_readiness(self, *, first: bool) -> None:
        """Open the port that waits for models, if there are any now; log the first scan's outcome."""
        reason = self.unready_reason()
        try:
            waits = self.lifecycle.unready_reason or self.registry.snapshot.unready_reason()  # never strict
            if not (waits or self._grpc.opened):
                await self._open_grpc()
        except Exception as error:  # noqa: BLE001 # run() raises it
            self._failure = error
            self._stop.set()
        if first and not self.lifecycle.stopping:
            if reason:
                log.error("not ready", reason=reason)
            else:
                log.info("ready", seconds=round(time.perf_counter() - self._started, 3))

    # --- state ---

    def unready_reason(self) -> str:
        """Why the server is not ready; "" if it is."""
        return self.lifecycle.unready_reason or self.registry.unready_reason()

    def _publish_state(self) -> None:
        """Update the health service."""
        stopping, entries = self.lifecycle.stopping, self.registry.snapshot.entries
        names = {name: entry.serves and not stopping for name, entry in entries.items()}
        self._health.set_all({"": not self.unready_reason(), **names})
        self._state_changed()

    def _engine_broke(self) -> None:
        """Update the health service, and stop in order to be restarted."""
        self._publish_state()
        self._status = ENGINE_BROKEN
        self._stop.set()

    def _call_on_loop(self, callback: Callable[[], None]) -> None:
        """Call it on the event loop; nothing happens once that has ended. Called on any thread."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(callback)

    # --- stop ---

    def request_scan(self) -> None:
        """Scan the repository, after the change that runs now. Called on any thread."""
        self._changes.request_scan()

    def request_stop(self, *, hurry: bool = False) -> None:
        """Stop. With `hurry` skip the lame duck, or end the one that has begun. Called on any thread, once or more."""
        if hurry:
            self._call_on_loop(self._hurry.set)
        self._call_on_loop(self._stop.set)

    def remove_socket(self) -> None:
        """Remove the temporary folder, if there is one."""
        self._grpc.remove_socket()

    async def shut_down(self, *, lame_duck: float) -> None:
        """Serve as a lame duck for `lame_duck` seconds, let clients leave, answer pending calls and close.

        0 skips the lame duck and the wait for clients.
        """
        self._changes.close()
        log.info("draining", lame_duck_seconds=lame_duck)
        self.lifecycle.advance(Phase.LAME_DUCK)
        self._publish_state()
        await self._grpc.lame_duck(lame_duck, self._hurry)
        limit = time.monotonic() + self._settings.shutdown_timeout_seconds
        self.lifecycle.advance(Phase.DRAINING)
        await self._answer_pending(limit)
        await self._grpc.close(self.lifecycle, limit)
        self.decoder.close()
        if self._metrics:
            self._metrics.close()
        self._credentials.close()
        self.lifecycle.advance(Phase.STOPPED)
        log.info("stopped", answered=self._models.answered)

    async def _answer_pending(self, limit: float) -> None:
        """Answer the pending calls; fail those that take longer than until `limit`, on time.monotonic()'s clock."""
        models, classifier = self._models, self._classifier
        classified = await classifier.finish(limit - time.monotonic())
        models.close()
        joined = await asyncio.to_thread(models.join, max(0.0, limit - time.monotonic()))
        pending, images = models.pending, classifier.waiting
        if (joined and classified) or not (pending or images):  # else no call took longer, but a thread to end
            return
        log.error(
            "shutdown timed out, failing pending calls",
            seconds=self._settings.shutdown_timeout_seconds,
            pending=pending,
            images=images,
        )
        models.fail_pending(Draining())
