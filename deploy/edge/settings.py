"""Every setting of the edge: an environment variable EDGE_ and the name in capitals. Empty is as good as unset."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass

from .errors import WrongSetting

LOOPBACK = re.compile(r"|localhost|127\..*|::1|\[::1\]")
MIB = 2**20
UPSTREAM = re.compile(r"(?:[\w.-]+|\[[0-9a-fA-F:.]+\]):(\d+)")  # a name or an address, and the port
PORTS = (1, 65535)
# Of the numbers: the smallest and the largest that is allowed.
RANGES: dict[str, tuple[float, float]] = {
    "port": PORTS,
    "operators_port": PORTS,
    "admin_port": PORTS,
    "max_message_bytes": (1, 2**32 - 6),  # with its frame of 5 bytes, what Envoy can count
    "max_connections": (1, 10**6),
    "access_log_percent": (0, 100),
    "heap_bytes": (0, 2**50),
    "drain_seconds": (0, 3600),
}


@dataclass(frozen=True)
class Settings:
    """The environment: EDGE_ and the name in capitals."""

    upstream: str = "service:8001"  # host and port of the replicas, found by DNS
    host: str = "0.0.0.0"  # noqa: S104 # address to listen on: a container's ports are published by whoever runs it
    port: int = 8001  # gRPC, gRPC-Web and JSON
    operators_port: int = 8003  # /metrics, /livez, /readyz
    admin_port: int = 9901  # Envoy's, on loopback
    tls_folder: str = ""  # with tls.crt, tls.key and, for mutual TLS, client-ca.crt; empty for plaintext
    client_certificates: str = ""  # `required` for mutual TLS
    max_message_bytes: int = 64 * MIB  # the service's --max-message-bytes
    max_connections: int = 8192
    allowed_origins: str = r"https?://(localhost|127\.0\.0\.1)(:\d+)?"  # regular expression: pages that may call
    access_log_percent: float = 1.0  # of the calls that neither failed nor were slow; those are all logged
    heap_bytes: int = 0  # Envoy's memory; 0 for three quarters of the container's limit
    drain_seconds: float = 20.0
    published_on: str = ""  # the address at which others reach the port; not loopback: TLS is wanted
    insecure: str = ""  # not empty to serve such an address without TLS
    tokens: str = ""  # not empty if the service checks tokens

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Settings:
        """Read the variables that are set and not empty. Raises WrongSetting."""
        values: dict[str, object] = {}
        for name, default in {field: getattr(cls, field) for field in cls.__dataclass_fields__}.items():
            variable = f"EDGE_{name.upper()}"
            text = environment.get(variable, "").strip()
            if text:
                try:
                    values[name] = type(default)(text)
                except ValueError as error:
                    raise WrongSetting(f"{variable}: expected a number, got {text!r}") from error
        return cls(**values)._checked()  # type: ignore[arg-type] # of the types of the defaults

    def _checked(self) -> Settings:
        for name, (low, high) in RANGES.items():
            if not low <= getattr(self, name) <= high:
                raise WrongSetting(f"EDGE_{name.upper()}: expected {low} to {high}, got {getattr(self, name)}")
        if self.client_certificates not in ("", "required"):
            raise WrongSetting(
                f"EDGE_CLIENT_CERTIFICATES: expected required or nothing, got {self.client_certificates!r}"
            )
        if self.client_certificates and not self.tls_folder:
            raise WrongSetting("EDGE_CLIENT_CERTIFICATES needs TLS: set EDGE_TLS_FOLDER too")
        if self.is_open and not (self.tls_folder or self.insecure):
            raise WrongSetting(
                f"published on {self.published_on} without TLS: set TLS_FOLDER, or GRPC_INSECURE=1 if something before "
                "the edge has TLS or the network is yours alone"
            )
        upstream = UPSTREAM.fullmatch(self.upstream)
        if not upstream or not PORTS[0] <= int(upstream[1]) <= PORTS[1]:
            raise WrongSetting(f"EDGE_UPSTREAM: expected HOST:PORT, got {self.upstream!r}")
        try:
            ipaddress.ip_address(self.host)
        except ValueError as error:
            raise WrongSetting(f"EDGE_HOST: expected an IP address to listen on, got {self.host!r}") from error
        try:
            re.compile(self.allowed_origins)
        except re.error as error:
            raise WrongSetting(f"EDGE_ALLOWED_ORIGINS: expected a regular expression: {error}") from error
        return self

    @property
    def is_open(self) -> bool:
        """Whether other machines reach the port."""
        return not LOOPBACK.fullmatch(self.published_on)

    def warnings(self) -> list[str]:
        """What an operator should know of an address that others reach."""
        if not self.is_open:
            return []
        place = f"published on {self.published_on}"
        without_tokens = f"{place} without tokens: everybody who reaches the port may call; set TOKENS_FOLDER"
        without_tls = f"{place} without TLS: pictures and tokens can be read on the network"
        return [*([] if self.tokens else [without_tokens]), *([] if self.tls_folder else [without_tls])]
