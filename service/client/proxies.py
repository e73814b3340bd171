"""Which calls go through an HTTP proxy that the environment names.

gRPC takes the first of grpc_proxy, https_proxy and http_proxy for every address, also loopback, unless no_grpc_proxy
or no_proxy lists it. It reads only lower case. Of the list it knows ends of names and networks, but not `*`, HOST:PORT,
`*.example.com`, or `.example.com` for example.com itself. This module adds what other programs read there, and never
uses a proxy on this machine. Not here: the CONNECT request, which gRPC makes.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping

from service.client.address import endpoints, ip_of, on_this_machine, split_port

PROXY = ("grpc_proxy", "https_proxy", "http_proxy")
UPPER_CASE_PROXY = "HTTPS_PROXY"  # HTTP_PROXY is left out: behind CGI a caller can set it
NO_PROXY = ("no_grpc_proxy", "no_proxy", "NO_GRPC_PROXY", "NO_PROXY")


def proxy_options(url: str, environment: Mapping[str, str]) -> list[tuple[str, int | str]]:
    """The options of a channel to that address, on top of what gRPC reads from the environment itself."""
    if on_this_machine(url) or _is_excluded(url, environment):
        return [("grpc.enable_http_proxy", 0)]
    if _variable(environment) == UPPER_CASE_PROXY:
        return [("grpc.http_proxy", environment[UPPER_CASE_PROXY])]
    return []


def proxy_of(url: str, environment: Mapping[str, str]) -> str:
    """The variable and the host of the proxy that leads to the address, without its credentials; empty without one."""
    variable = _variable(environment)
    if not variable or ("grpc.enable_http_proxy", 0) in proxy_options(url, environment):
        return ""
    return f"{variable}, {environment[variable].rpartition('@')[2].rpartition('//')[2].rstrip('/')}"


def _variable(environment: Mapping[str, str]) -> str:
    """The variable with the proxy. As for gRPC, an empty variable means that no proxy is used."""
    found = next((name for name in (*PROXY, UPPER_CASE_PROXY) if name in environment), "")
    return found if found and environment[found] else ""


def _is_excluded(url: str, environment: Mapping[str, str]) -> bool:
    """Whether the first of the variables NO_PROXY that is not empty lists every host of the address."""
    listed = next((environment[name] for name in NO_PROXY if environment.get(name)), "")
    entries = re.split(r"[,\s]+", listed.strip().lower())
    return all(any(_matches(entry, host, port) for entry in entries) for host, port in endpoints(url))


def _matches(entry: str, host: str, port: str) -> bool:
    """Whether the entry is `*`, or the host, a domain of it or a network of it, with the same port if it has one."""
    if entry == "*":
        return True
    address = ip_of(host)
    if "/" in entry:
        try:
            return address is not None and address in ipaddress.ip_network(entry, strict=False)
        except ValueError:
            return False
    name, its_port = split_port(entry)
    if its_port and its_port != port:
        return False
    if address is not None:
        return ip_of(name) == address
    domain = name.removeprefix("*").strip(".")
    return bool(domain) and f".{host.removesuffix('.')}".endswith(f".{domain}")
