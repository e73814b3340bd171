"""Addresses as gRPC takes them: HOST:PORT, dns:///HOST:PORT, ipv4:HOST:PORT,HOST:PORT, unix:PATH.

Owns their hosts and ports, and whether they lie on this machine. Not here: which proxy leads there (proxies.py).
"""

from __future__ import annotations

import ipaddress
from ipaddress import IPv4Address, IPv6Address
from urllib.parse import unquote

SOCKET_SCHEMES = ("unix", "unix-abstract")
NAME_SCHEMES = ("dns", "ipv4", "ipv6", "xds")


def check(url: str) -> None:
    """Raise ValueError for what people paste and gRPC would try to resolve as a host name."""
    scheme, separator, rest = url.partition("://")
    if separator and scheme in ("http", "https", "grpc", "grpcs"):
        secure = " with TLS" if scheme in ("https", "grpcs") else ""
        raise ValueError(
            f"{url!r}: an address is HOST:PORT, here {rest.partition('/')[0]!r}{secure}, without {scheme}://"
        )


def endpoints(url: str) -> list[tuple[str, str]]:
    """Host and port of each address, lower case; the port is empty where there is none. A Unix socket has none."""
    scheme, _, rest = url.partition(":")
    if scheme in SOCKET_SCHEMES:
        return []
    addresses = unquote(rest.rpartition("/")[2] if scheme in NAME_SCHEMES else url)
    return [split_port(address) for address in addresses.lower().split(",")]


def split_port(address: str) -> tuple[str, str]:
    """Host and port of HOST, HOST:PORT, [IPv6]:PORT or IPv6."""
    if address.startswith("["):
        host, _, port = address[1:].partition("]")
        return host, port.removeprefix(":")
    if address.count(":") > 1:
        return address, ""
    host, _, port = address.partition(":")
    return host, port


def ip_of(host: str) -> IPv4Address | IPv6Address | None:
    """The IP address, if the host is one; an IPv4 address within an IPv6 one becomes that."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def on_this_machine(url: str) -> bool:
    """Whether calls to the address never leave this machine: loopback, or a Unix socket."""
    return all(_is_loopback(host) for host, _ in endpoints(url))


def _is_loopback(host: str) -> bool:
    name = host.removesuffix(".")
    address = ip_of(name)
    if address is None:
        return name == "localhost" or name.endswith(".localhost")
    return address.is_loopback or address.is_unspecified  # a connection to 0.0.0.0 is one to this machine
