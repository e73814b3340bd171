"""Who can reach the ports: which gRPC server may stand there, and what is refused or said about it.

An open address is one that strangers may reach: any but a loopback address, unless the settings say that an edge stands
before it. Owns the rules for open addresses. Not here: TLS (transport/tls.py), tokens (core/auth.py), the edge
(deploy/edge).
"""

from dataclasses import dataclass
from importlib.util import find_spec

import structlog

from service.app.settings import Settings
from service.app.startup import CannotStart
from service.transport.grpc.listeners import is_loopback

log = structlog.get_logger(__name__)

NOT_INSTALLED = "pygrpc-native is not installed"
NO_TLS = "pygrpc-native has no TLS"
NO_BOUND = "pygrpc-native buffers and decompresses a message of any size before its token is checked"


@dataclass(frozen=True)
class GrpcServerChoice:
    """The gRPC server to run, `native` or `aio`; if the settings leave it open, why not native, and what to do."""

    kind: str
    reason: str = ""
    advice: str = ""


def choose_grpc_server(settings: Settings) -> GrpcServerChoice:
    """The gRPC server for the setting `auto`, `native` or `aio`.

    Raises:
        CannotStart: the setting is `native`, and pygrpc-native is not installed or may not stand there.
    """
    if settings.grpc_server == "aio":
        return GrpcServerChoice("aio")
    if find_spec("pygrpc_native") is None:
        choice = GrpcServerChoice("aio", NOT_INSTALLED, "install it: pip install pygrpc-native")
    elif settings.tls_certificate:
        choice = GrpcServerChoice("aio", NO_TLS, "leave TLS to an edge before the service, and say --behind-edge")
    elif not _is_open(settings, settings.host) or _native_bounds_messages():
        return GrpcServerChoice("native")
    else:
        choice = GrpcServerChoice(
            "aio",
            f"{NO_BOUND}, and strangers may reach {settings.host}",
            "put an edge before it, and say --behind-edge",
        )
    if settings.grpc_server == "native":
        raise CannotStart(f"--grpc-server native: {choice.reason}; {choice.advice}, or use --grpc-server aio")
    return choice


def check_exposure(settings: Settings) -> None:
    """Refuse an open address without TLS, unless that is asked for.

    Raises:
        CannotStart: the message names the flag, the reason and the ways out.
    """
    if settings.tls_certificate or settings.insecure:
        return
    for flag, host in _addresses(settings).items():
        if _is_open(settings, host):
            raise CannotStart(
                f"{flag} {host}: strangers may reach this address, and nothing there is encrypted; "
                "give --tls-certificate and --tls-key for TLS, --behind-edge if strangers reach it only through an "
                "edge that bounds messages, or --insecure to serve without TLS"
            )


def log_exposure(settings: Settings, choice: GrpcServerChoice) -> None:
    """Log why the aio server was chosen, and what open addresses lack."""
    if choice.reason:
        log.info("aio server chosen", reason=choice.reason, advice=choice.advice)
    for flag, host in _addresses(settings).items():
        if _is_open(settings, host) and not settings.tls_certificate:
            readable = "tokens and data" if settings.tokens_file and flag == "--host" else "data"
            log.warning("open address without TLS", flag=flag, address=host, readable_on_the_network=readable)
    if _is_open(settings, settings.host) and not (settings.tokens_file or settings.tls_client_ca):
        log.warning(
            "open address without tokens",
            address=settings.host,
            consequence="everybody who reaches it may call",
            advice="give --tokens-file, or --tls-client-ca",
        )


def _addresses(settings: Settings) -> dict[str, str]:
    """The addresses that this service listens on, by the flag that sets them; one that is the same occurs once."""
    addresses = {"--host": settings.host}
    if settings.metrics_host not in (None, settings.host):
        addresses["--metrics-host"] = settings.metrics_host
    return addresses


def _is_open(settings: Settings, host: str) -> bool:
    return not (settings.behind_edge or is_loopback(host))


def _native_bounds_messages() -> bool:
    from service.transport.grpc.native_server import MESSAGE_BOUND  # here, because pygrpc-native is optional

    return bool(MESSAGE_BOUND)
