"""The container's health check: whether the edge itself serves clients. Not here: whether a replica does (/readyz)."""

from __future__ import annotations

import ipaddress
import socket
import ssl
import urllib.request

from .settings import Settings


def health(settings: Settings) -> str:
    """Why clients are not served, as far as the edge itself is the reason; "" if they are.

    The port is asked as clients ask it, with TLS if it has TLS; replicas are not (/readyz says whether one is healthy).
    """
    try:
        request("GET", f"http://{_host(settings)}:{settings.operators_port}/livez")
        with _connect(settings) as connection:
            if settings.client_certificates:
                return ""  # the server's certificate is in order; without one of a client, this is where it ends
            connection.sendall(b"GET /livez HTTP/1.1\r\nhost: edge\r\nconnection: close\r\n\r\n")
            answer = connection.recv(1024)
    except OSError as error:  # ssl.SSLError is one
        return f"port {settings.port}: {error}"
    return "" if answer.startswith(b"HTTP/1.1 200") else f"port {settings.port} answers {answer[:80]!r}"


def _connect(settings: Settings) -> socket.socket:
    plain = socket.create_connection((_host(settings).strip("[]"), settings.port), timeout=2)
    if not settings.tls_folder:
        return plain
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False  # the certificate is for the name that clients use
    context.verify_mode = ssl.CERT_NONE
    with plain:
        return context.wrap_socket(plain)


def _host(settings: Settings) -> str:
    """Where the edge reaches itself, in the form of URLs."""
    address = ipaddress.ip_address(settings.host)
    if address.is_unspecified:
        address = ipaddress.ip_address("127.0.0.1" if address.version == 4 else "::1")
    return f"[{address}]" if address.version == 6 else str(address)


def request(method: str, url: str) -> str:
    """The body of an answer. Raises OSError, urllib's errors included; a proxy in the environment is not used."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(urllib.request.Request(url, method=method), timeout=5) as answer:  # noqa: S310 # http alone
        return str(answer.read().decode())
