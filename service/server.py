"""The service's life: start, serve, stop.

Owns: the order of things. Starting: addresses first, so that the process is live and says why it is not ready; then
models; then ready. A port that is shared with other services is opened last, when there is something to answer with.
Stopping, on SIGTERM or Ctrl-C:

1. health says NOT_SERVING and /readyz 503, while calls are still served for `drain_seconds` (not after Ctrl-C);
2. the grpcio front accepts no more connections, and those that are open have come of age and gone elsewhere after
   `connection_seconds`, calls being served until they have (not after Ctrl-C, and not on the native front);
3. new calls are refused with UNAVAILABLE, and what waits is answered, within `grace_seconds`;
4. once no more calls arrive, or after a moment, the fronts close; exit status 0.

A second signal ends the process at once. An engine that breaks makes the service unready and stops it in the same way,
with exit status 3, for whoever watches to start it anew. SIGHUP looks for new versions now. Exit status 2: an address,
the repository or the device cannot be had.
"""

import asyncio
import contextlib
import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import structlog
from prometheus_client import CollectorRegistry

from service.classifier import ClassifierServicer
from service.credentials import BadCredentials, Credentials, read_credentials
from service.cuda import GpuOptions
from service.engine import DeviceUnavailable, choose_devices
from service.errors import Draining
from service.fronts.grpcio import GrpcioFront
from service.fronts.sockets import connections, stop_listening
from service.health import HealthServicer
from service.loader import Runtime, load
from service.metrics import MetricsServer, ServiceCollector, registry_of
from service.nvml import GpuCollector
from service.protocol import Inference
from service.registry import Registry
from service.servicers import InferenceServicer
from service.settings import Settings

if TYPE_CHECKING:
    from service.fronts.native import NativeFront

log = structlog.get_logger(__name__)


# The fronts close once no call was refused for so long, and at the latest after the second: a client that tries again
# comes to the same connection until it is closed.
QUIET_SECONDS, LONGEST_REFUSAL = 0.1, 0.3
# gRPC spreads the ages of connections by a tenth, and a client takes a moment to go.
AGE_SPREAD, LEAVING_SECONDS = 1.1, 0.5
CANNOT_START, ENGINE_BROKEN = 2, 3

Report = Callable[[CollectorRegistry, Callable[[], str]], None]


class CannotStart(Exception):
    """The service cannot be what the settings ask for; the message says which and why."""


class Server:
    """One service, from start to exit, on one event loop."""

    def __init__(self, settings: Settings, *, report: Report | None = None) -> None:
        self._settings = settings
        self._report = report
        self.front = choose_front(settings.front)
        gpu = GpuOptions(settings.gpu_memory_bytes, settings.cuda_graphs, settings.tensorrt_cache, settings.fp16)
        self._runtime = Runtime(_devices(settings.device), settings.threads, gpu)
        if not settings.repository.is_dir():
            raise CannotStart(
                f"--repository {settings.repository}: no such folder; `python -m training` makes one, or `make demo`"
            )
        self.registry = Registry(
            settings.repository,
            lambda folder, version: load(folder, version, self._runtime, on_broken=self._engine_broke),
            on_change=self._models_changed,
        )
        self.inference = Inference(
            self.registry,
            max_message_bytes=settings.max_message_bytes,
            credentials=_read_credentials(settings.credentials),
        )
        self._stop = asyncio.Event()
        self._stop_signal = signal.SIGTERM
        self._status = 0
        self._reload = asyncio.Event()
        self._metrics: MetricsServer | None = None
        self._native: NativeFront | None = None
        self._opened = False
        self._health = HealthServicer()
        self._classifier = ClassifierServicer(self.registry)

    async def run(self) -> int:
        """Serve until a signal says stop, or an engine breaks. Returns the exit status.

        Raises:
            CannotStart: an address cannot be had.
        """
        with self._signals():
            await self.start()
            stop = asyncio.create_task(self._stop.wait())
            await asyncio.wait([stop, self._reconciler], return_when=asyncio.FIRST_COMPLETED)
            if self._reconciler.done():
                self._reconciler.result()  # raises what ended it
            await self.shut_down(lame_duck=self._settings.drain_seconds if self._stop_signal == signal.SIGTERM else 0.0)
        return self._status

    # --- start ---

    async def start(self) -> None:
        """Take the addresses and begin to load; the server is live, and ready once its models are."""
        settings = self._settings
        self._loop = asyncio.get_running_loop()
        metrics = registry_of(
            ServiceCollector(self.registry, self.inference, self.front),
            GpuCollector(self._runtime.devices, os.environ.get("CUDA_VISIBLE_DEVICES", "")),
        )
        if self._report:
            self._report(metrics, self.not_ready_because)
        else:
            self._metrics = open_metrics(settings, metrics, self.not_ready_because)
            self.metrics_url = self._metrics.url
        if not settings.reuse_port:
            await self._open()
        if self._metrics:
            log.info("metrics", url=self._metrics.url)
        self._reconciler = asyncio.create_task(self._follow_repository())

    async def _open(self) -> None:
        """Take calls."""
        settings = self._settings
        self._folder = tempfile.TemporaryDirectory(prefix="simplecnn-")
        fallback = f"{self._folder.name}/grpc.sock"
        address = _join(settings.host, settings.grpc_port)
        with _address("--grpc-port", settings.host, settings.grpc_port, shared=settings.reuse_port):
            self._grpcio = GrpcioFront(
                address if self.front == "grpcio" else f"unix:{fallback}",
                self.inference,
                InferenceServicer(self.registry, self.inference, allow_control=settings.allow_control),
                self._classifier,
                self._health,
                max_message_bytes=settings.max_message_bytes,
                reuse_port=settings.reuse_port,
                connection_seconds=settings.connection_seconds if self.front == "grpcio" else 0.0,
            )
            if self.front == "native":
                self._native = _native_front(address, self.inference, fallback=fallback, reuse_port=settings.reuse_port)
        await self._grpcio.start()
        if self._native:
            self._native.start()
        self._port = (self._native or self._grpcio).port
        self.grpc_address = _join(settings.host, self._port)
        self._opened = True
        log.info("listening", front=self.front, grpc=self.grpc_address, pid=os.getpid())

    async def _follow_repository(self) -> None:
        """Load what is there, then follow changes by poll and by SIGHUP."""
        started = time.perf_counter()
        while True:
            self._reload.clear()
            await asyncio.to_thread(self.registry.reconcile)
            reason = self.not_ready_because()
            if not self._opened and not reason:
                await self._open()
            if started:
                if reason:
                    log.error("not ready", reason=reason)
                else:
                    log.info("ready", seconds=round(time.perf_counter() - started, 3))
                started = 0.0
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._reload.wait(), self._settings.poll_seconds or None)

    def not_ready_because(self) -> str:
        """Why the server is not ready; "" if it is."""
        return "draining" if self.inference.leaving else self.registry.not_ready_because()

    def _models_changed(self) -> None:
        """From the reconciling thread: tell the health service."""
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._publish_health)

    def _publish_health(self) -> None:
        answering = set() if self.inference.leaving else self.registry.answering()
        names = {name: name in answering for name in self.registry.names()}
        self._health.set_all({"": not self.not_ready_because(), **names})

    def _engine_broke(self) -> None:
        """From an engine's thread: tell the health service, and stop for a new start."""

        def stop() -> None:
            self._publish_health()
            self._status = ENGINE_BROKEN
            self._stop.set()

        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(stop)

    # --- stop ---

    async def shut_down(self, *, lame_duck: float) -> None:
        """Serve on for `lame_duck` seconds, let clients go, answer what was accepted, and end; 0 is in a hurry."""
        settings = self._settings
        self._reconciler.cancel()
        log.info("draining", serving_on_for=lame_duck)
        self.inference.leaving = True
        self._publish_health()
        ages = self._opened and self.front == "grpcio" and lame_duck > 0
        if ages and settings.reuse_port:
            stop_listening(self._port)  # the others take new connections from now on
        await asyncio.sleep(lame_duck)
        if ages and settings.connection_seconds:
            await self._let_connections_age()
        limit = time.monotonic() + settings.grace_seconds
        self.inference.draining = True
        self.registry.close()
        if not await asyncio.to_thread(self.registry.join, settings.grace_seconds):
            log.error("calls in flight took longer than --grace-seconds; they are failed")
            for model in self.registry.models():
                model.batcher.fail_waiting(Draining())
        if self._opened:
            await self._refuse_until_quiet()
            if self._native:
                await asyncio.to_thread(self._native.close)
            await self._grpcio.stop(max(0.0, limit - time.monotonic()))
            self._folder.cleanup()
        self._classifier.close()
        if self._metrics:
            self._metrics.close()
        log.info("stopped", answered=sum(model.statistics.codes["OK"] for model in self.registry.models()))

    async def _let_connections_age(self) -> None:
        """Serve on until every client has been asked to connect anew, which it can only do elsewhere."""
        stop_listening(self._port)
        limit = time.monotonic() + AGE_SPREAD * self._settings.connection_seconds + LEAVING_SECONDS
        while connections(self._port) and time.monotonic() < limit:
            await asyncio.sleep(QUIET_SECONDS)

    async def _refuse_until_quiet(self) -> None:
        """Answer UNAVAILABLE to calls that are still on their way; a front that closes would cancel them instead."""
        began = time.monotonic()
        limit = began + LONGEST_REFUSAL
        while time.monotonic() < min(max(began, self.inference.refused_at) + QUIET_SECONDS, limit):
            await asyncio.sleep(QUIET_SECONDS / 10)

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        def stop(number: signal.Signals) -> None:
            if self._stop.is_set():
                log.error("a second signal: ending at once")
                os._exit(128 + number)
            self._stop_signal = number
            self._stop.set()

        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop, number)
        loop.add_signal_handler(signal.SIGHUP, self._reload.set)
        yield


def choose_front(wanted: str) -> str:
    """`native` or `grpcio`.

    Raises:
        CannotStart: the native front was asked for by name and is not installed.
    """
    installed = find_spec("pygrpc_native") is not None
    if wanted == "native" and not installed:
        raise CannotStart("--front native: pygrpc-native is not installed; install it or use --front grpcio")
    return "native" if installed and wanted != "grpcio" else "grpcio"


def _native_front(address: str, inference: Inference, *, fallback: str, reuse_port: bool) -> "NativeFront":
    from service.fronts.native import NativeFront  # here: pygrpc-native need not be installed

    return NativeFront(address, inference, fallback=fallback, reuse_port=reuse_port)


def _read_credentials(path: Path | None) -> Credentials | None:
    try:
        return None if path is None else read_credentials(path)
    except BadCredentials as error:
        raise CannotStart(f"--credentials {error}") from error


def _devices(wanted: str) -> list[str]:
    try:
        return choose_devices(wanted)
    except DeviceUnavailable as error:
        raise CannotStart(str(error)) from error


@contextlib.contextmanager
def _address(flag: str, host: str, port: int, *, shared: bool = False) -> Iterator[None]:
    try:
        # Asked here first: both gRPC libraries also write lines of their own about an address that is taken.
        # Bound but not listening, for where the port is shared a listener would get connections.
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as asking:
            asking.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT if shared else socket.SO_REUSEADDR, 1)
            asking.bind((host, port))
        yield
    except OSError as error:
        raise CannotStart(
            f"{flag} {port}: {_join(host, port)} cannot be bound ({error.strerror or error}); does another server run?"
        ) from error


def _join(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def open_metrics(
    settings: Settings, registry: CollectorRegistry, not_ready_because: Callable[[], str]
) -> MetricsServer:
    """Serve /metrics and the probes.

    Raises:
        CannotStart: the address cannot be had.
    """
    with _address("--metrics-port", settings.host, settings.metrics_port):
        return MetricsServer(settings.host, settings.metrics_port, registry, not_ready_because)


def reserve_port(settings: Settings) -> tuple[socket.socket, int]:
    """Hold the gRPC port for workers that will share it: a socket that does not listen, and the port's number.

    Raises:
        CannotStart: the address cannot be had, or another server listens there and sharing was not asked for.
    """
    with _address("--grpc-port", settings.host, settings.grpc_port, shared=settings.reuse_port):
        reserved = socket.socket(socket.AF_INET6 if ":" in settings.host else socket.AF_INET)
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        reserved.bind((settings.host, settings.grpc_port))
    return reserved, reserved.getsockname()[1]


def serve(settings: Settings, *, report: Report | None = None) -> int:
    """Run a service to its end and return the exit status.

    With `report`, which is given the metrics and what tells why the service is not ready, it opens no port for them.
    """

    async def main() -> int:
        return await Server(settings, report=report).run()

    try:
        return asyncio.run(main())
    except CannotStart as error:
        print(f"error: {error}", file=sys.stderr)
        return CANNOT_START
