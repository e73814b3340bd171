"""The life of the service: start, serve, stop.

Starting: open the metrics port first, so that the process is live and reports why it is not ready; then open the gRPC
port; then load the models; then be ready. A gRPC port that other processes share (`reuse_port`) is opened last, once
models answer. Stopping, on SIGTERM or Ctrl-C:

1. Lame duck: health says NOT_SERVING and /readyz 503 while calls are served for `lame_duck_seconds`. SIGTERM only.
2. On the aio server: accept no more connections; open ones reach their maximum age, and the server sends GOAWAY and
   serves on until clients reconnect elsewhere. SIGTERM only.
3. Draining: new calls are refused with UNAVAILABLE, pending calls are answered, within `shutdown_timeout_seconds`.
4. Once no more calls arrive, or after MAX_REFUSAL_SECONDS, the gRPC servers close; exit status 0.

A second signal ends the process at once. An engine that breaks makes the service unready and stops it in the same way
with exit status 3, so that the process's supervisor restarts it. SIGHUP scans the repository for new versions at once.
Exit status 2: an address, the repository or the device is not available.
"""

import asyncio
import contextlib
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import structlog
from prometheus_client import CollectorRegistry

from service.app.settings import Settings
from service.app.startup import (
    CANNOT_START,
    CannotStart,
    bind_errors,
    check_repository,
    choose_grpc_server,
    engine_options,
    open_metrics,
    read_tokens,
)
from service.core.errors import Draining
from service.inference.classification import Classifier
from service.inference.handler import InferenceHandler
from service.models.loader import load
from service.models.reconciler import Reconciler
from service.models.registry import Registry
from service.telemetry.collector import ServiceCollector, metrics_registry
from service.telemetry.gpu import GpuCollector
from service.transport.grpc.aio_server import AioServer
from service.transport.grpc.classifier_servicer import ClassifierServicer
from service.transport.grpc.health_servicer import HealthServicer
from service.transport.grpc.inference_servicer import InferenceServicer
from service.transport.grpc.listeners import close_listeners, join_address, open_connections
from service.transport.http.monitoring import MonitoringServer

if TYPE_CHECKING:
    from service.transport.grpc.native_server import NativeServer

log = structlog.get_logger(__name__)

# The gRPC servers close once no call was refused for QUIET_SECONDS, and at the latest after MAX_REFUSAL_SECONDS: a
# client that retries comes back on the same connection until that is closed.
QUIET_SECONDS, MAX_REFUSAL_SECONDS = 0.1, 0.3
# gRPC spreads the maximum ages of connections by a tenth, and a client takes a moment to leave.
AGE_SPREAD, LEAVING_SECONDS = 1.1, 0.5
# The exit status.
ENGINE_BROKEN = 3

Report = Callable[[CollectorRegistry, Callable[[], str]], None]


class Server:
    """One service, from start to exit, on one event loop."""

    def __init__(self, settings: Settings, *, report: Report | None = None) -> None:
        self._settings = settings
        self._report = report
        self.grpc_server = choose_grpc_server(settings.grpc_server)
        self._engine_options = engine_options(settings)
        self.registry = Registry(
            check_repository(settings), strict=settings.strict_readiness, on_change=self._models_changed
        )
        self.reconciler = Reconciler(
            settings.model_repository,
            self.registry,
            lambda folder, version: load(
                folder,
                version,
                self._engine_options,
                require_manifest=settings.require_manifest,
                on_broken=self._engine_broke,
            ),
        )
        self.handler = InferenceHandler(
            self.registry, max_message_bytes=settings.max_message_bytes, tokens=read_tokens(settings.tokens_file)
        )
        self._collector = ServiceCollector(self.registry, self.handler, self.grpc_server)
        self._classifier = Classifier(self.registry)
        self._health = HealthServicer()
        self._metrics: MonitoringServer | None = None
        self._native: NativeServer | None = None
        self._opened = False
        self._stop = asyncio.Event()
        self._stop_signal = signal.SIGTERM
        self._status = 0
        self._reload = asyncio.Event()

    async def run(self) -> int:
        """Serve until a signal to stop, or until an engine breaks. Returns the exit status.

        Raises:
            CannotStart: an address cannot be bound.
        """
        with self._signals():
            await self.start()
            stop = asyncio.create_task(self._stop.wait())
            await asyncio.wait([stop, self._reconciling], return_when=asyncio.FIRST_COMPLETED)
            if self._reconciling.done():
                self._reconciling.result()  # raises the exception that ended it
            lame_duck = self._settings.lame_duck_seconds if self._stop_signal == signal.SIGTERM else 0.0
            await self.shut_down(lame_duck=lame_duck)
        return self._status

    # --- start ---

    async def start(self) -> None:
        """Open the ports and start to load: the server is live now, and ready once its models are."""
        settings = self._settings
        self._loop = asyncio.get_running_loop()
        metrics = metrics_registry(
            self._collector,
            GpuCollector(self._engine_options.devices, os.environ.get("CUDA_VISIBLE_DEVICES", "")),
        )
        if self._report:
            self._report(metrics, self.unready_reason)
        else:
            self._metrics = open_metrics(settings, metrics, self.unready_reason)
            self.metrics_url = self._metrics.url
        if not settings.reuse_port:
            await self._open_grpc()
        if self._metrics:
            log.info("metrics listening", url=self._metrics.url)
        self._reconciling = asyncio.create_task(self._follow_repository())

    async def _open_grpc(self) -> None:
        """Accept calls."""
        settings = self._settings
        native = self.grpc_server == "native"
        self._folder = tempfile.TemporaryDirectory(prefix="simplecnn-")
        fallback = f"{self._folder.name}/grpc.sock"
        address = join_address(settings.host, settings.grpc_port)
        with bind_errors("--grpc-port", settings.host, settings.grpc_port, shared=settings.reuse_port):
            self._aio = AioServer(
                f"unix:{fallback}" if native else address,
                self.handler,
                InferenceServicer(
                    self.registry, self.reconciler, self.handler, enable_control=settings.enable_model_control
                ),
                ClassifierServicer(self._classifier),
                self._health,
                max_message_bytes=settings.max_message_bytes,
                reuse_port=settings.reuse_port,
                max_connection_age_seconds=0.0 if native else settings.max_connection_age_seconds,
            )
            if native:
                self._native = _native_server(address, self.handler, fallback=fallback, reuse_port=settings.reuse_port)
        await self._aio.start()
        if self._native:
            self._native.start()
        self._port = (self._native or self._aio).port
        self.grpc_address = join_address(settings.host, self._port)
        self._opened = True
        log.info("listening", grpc_server=self.grpc_server, address=self.grpc_address, pid=os.getpid())

    async def _follow_repository(self) -> None:
        """Load what is in the repository, then follow its changes by poll and by SIGHUP."""
        started = time.perf_counter()
        while True:
            self._reload.clear()
            await asyncio.to_thread(self.reconciler.reconcile)
            reason = self.unready_reason()
            if not self._opened and not reason:
                await self._open_grpc()
            if started:
                if reason:
                    log.error("not ready", reason=reason)
                else:
                    log.info("ready", seconds=round(time.perf_counter() - started, 3))
                started = 0.0
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._reload.wait(), self._settings.repository_poll_seconds or None)

    # --- state ---

    def unready_reason(self) -> str:
        """Why the server is not ready; "" if it is."""
        return "draining" if self.handler.lame_duck else self.registry.unready_reason()

    def _models_changed(self) -> None:
        """Update the health service. Called on the reconciler's thread."""
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._publish_health)

    def _publish_health(self) -> None:
        entries = self.registry.snapshot.entries
        names = {name: entry.serves and not self.handler.lame_duck for name, entry in entries.items()}
        self._health.set_all({"": not self.unready_reason(), **names})

    def _engine_broke(self) -> None:
        """Update the health service, and stop in order to be restarted. Called on an engine's thread."""

        def stop() -> None:
            self._publish_health()
            self._status = ENGINE_BROKEN
            self._stop.set()

        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(stop)

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """Handle SIGTERM, SIGINT and SIGHUP."""

        def stop(number: signal.Signals) -> None:
            if self._stop.is_set():
                log.error("second signal, exiting at once")
                os._exit(128 + number)
            self._stop_signal = number
            self._stop.set()

        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop, number)
        loop.add_signal_handler(signal.SIGHUP, self._reload.set)
        yield

    # --- stop ---

    async def shut_down(self, *, lame_duck: float) -> None:
        """Serve as a lame duck for `lame_duck` seconds, let clients leave, answer pending calls and close.

        0 skips the lame duck and the wait for clients.
        """
        settings = self._settings
        self._reconciling.cancel()
        log.info("draining", lame_duck_seconds=lame_duck)
        self.handler.lame_duck = True
        self._publish_health()
        moves_clients = self._opened and self.grpc_server == "aio" and lame_duck > 0
        if moves_clients and settings.reuse_port:
            close_listeners(self._port)  # the other processes accept new connections from now on
        await asyncio.sleep(lame_duck)
        if moves_clients and settings.max_connection_age_seconds:
            await self._await_connection_ages()
        limit = time.monotonic() + settings.shutdown_timeout_seconds
        self.handler.draining = True
        self.registry.close()
        if not await asyncio.to_thread(self.registry.join, settings.shutdown_timeout_seconds):
            log.error("shutdown timed out, failing pending calls", seconds=settings.shutdown_timeout_seconds)
            for model in self.registry.models():
                model.batcher.fail_pending(Draining())
        if self._opened:
            await self._close_grpc(limit)
        self._classifier.close()
        if self._metrics:
            self._metrics.close()
        log.info("stopped", answered=sum(model.statistics.codes["OK"] for model in self.registry.models()))

    async def _await_connection_ages(self) -> None:
        """Accept no more connections, and serve until every open one has reached its maximum age."""
        close_listeners(self._port)
        limit = time.monotonic() + AGE_SPREAD * self._settings.max_connection_age_seconds + LEAVING_SECONDS
        while open_connections(self._port) and time.monotonic() < limit:
            await asyncio.sleep(QUIET_SECONDS)

    async def _close_grpc(self, limit: float) -> None:
        """Refuse the calls that still arrive, then close: a closing server cancels calls instead of refusing them."""
        began = time.monotonic()
        last = began + MAX_REFUSAL_SECONDS
        while time.monotonic() < min(max(began, self.handler.last_refused_at) + QUIET_SECONDS, last):
            await asyncio.sleep(QUIET_SECONDS / 10)
        if self._native:
            await asyncio.to_thread(self._native.close)
        await self._aio.stop(max(0.0, limit - time.monotonic()))
        self._folder.cleanup()


def serve(settings: Settings, *, report: Report | None = None) -> int:
    """Run a service to its end and return the exit status.

    With `report` it opens no metrics port, and calls `report` with the metrics and the function that gives the reason
    for being unready.
    """

    async def main() -> int:
        return await Server(settings, report=report).run()

    try:
        return asyncio.run(main())
    except CannotStart as error:
        print(f"error: {error}", file=sys.stderr)
        return CANNOT_START


def _native_server(address: str, handler: InferenceHandler, *, fallback: str, reuse_port: bool) -> "NativeServer":
    from service.transport.grpc.native_server import NativeServer  # here, because pygrpc-native is optional

    return NativeServer(address, handler, fallback=fallback, reuse_port=reuse_port)
