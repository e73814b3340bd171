"""What the settings ask for, checked against this machine before the service starts.

Owns the errors of starting: each names the flag and the reason. Not here: the settings' own checks (settings.py), who
can reach the ports (exposure.py), the order of starting (server.py).
"""

import contextlib
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

from prometheus_client import CollectorRegistry

from service.app.settings import Settings
from service.core.auth import BadTokensFile, Tokens, read_tokens_file
from service.core.load_errors import DeviceUnavailable
from service.models.engine_settings import EngineOptions
from service.runtime.cuda import GpuOptions
from service.runtime.devices import choose_devices
from service.transport.grpc.listeners import check_bindable, join_address, reserve
from service.transport.http.monitoring import MonitoringServer
from service.transport.tls import ServerTls

# The exit status.
CANNOT_START = 2


class CannotStart(Exception):
    """A setting asks for what is not available here; the message names the flag and the reason."""


def open_metrics(
    settings: Settings, registry: CollectorRegistry, unready_reason: Callable[[], str], tls: ServerTls | None
) -> MonitoringServer:
    """Serve /metrics and the probes.

    Raises:
        CannotStart: the address cannot be bound.
    """
    host = settings.metrics_host or settings.host
    with bind_errors("--metrics-port", host, settings.metrics_port):
        return MonitoringServer(host, settings.metrics_port, registry, unready_reason, tls)


def reserve_port(settings: Settings) -> tuple[socket.socket, int]:
    """Hold the gRPC port for workers that will share it: a socket that does not listen, and the port's number.

    Raises:
        CannotStart: the address cannot be bound, or another server listens there and `reuse_port` is off.
    """
    with bind_errors("--grpc-port", settings.host, settings.grpc_port, shared=settings.reuse_port):
        reserved = reserve(settings.host, settings.grpc_port)
    return reserved, reserved.getsockname()[1]


def check_repository(settings: Settings) -> Path:
    """The model repository. Raises CannotStart if the folder does not exist."""
    path = settings.model_repository
    if not path.is_dir():
        raise CannotStart(f"--model-repository {path}: no such folder; `make demo` or `python -m training` creates one")
    return path


def engine_options(settings: Settings) -> EngineOptions:
    """The devices and options of engines. Raises CannotStart if the device is not available."""
    gpu = GpuOptions(settings.gpu_memory_bytes, settings.cuda_graphs, settings.tensorrt_cache, settings.fp16)
    try:
        return EngineOptions(choose_devices(settings.device), settings.intra_op_threads, gpu)
    except DeviceUnavailable as error:
        raise CannotStart(str(error)) from error


def read_tokens(path: Path | None) -> Tokens | None:
    """The tokens of a file; None without one. Raises CannotStart if the file is invalid."""
    try:
        return None if path is None else read_tokens_file(path)
    except BadTokensFile as error:
        raise CannotStart(f"--tokens-file {error}") from error


@contextlib.contextmanager
def bind_errors(flag: str, host: str, port: int, *, shared: bool = False) -> Iterator[None]:
    """Turn an error of binding the address into CannotStart, in one line that names the flag."""
    try:
        check_bindable(host, port, shared=shared)
        yield
    except OSError as error:
        address = join_address(host, port)
        raise CannotStart(
            f"{flag} {port}: {address} cannot be bound ({error.strerror or error}); is another server running?"
        ) from error
