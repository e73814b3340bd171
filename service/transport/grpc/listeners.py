"""Listening sockets: who reaches an address, check it, reserve a shared port, close listeners, count open connections.

gRPC has no calls for this. Closing and counting find sockets in /proc, so they work on Linux and do nothing elsewhere.
Not here: the servers (native_server.py, aio_server.py).
"""

import contextlib
import os
import socket
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path


def join_address(host: str, port: int) -> str:
    """host:port, with brackets around an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches the address. Names other than localhost count as open."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def check_bindable(host: str, port: int, *, shared: bool = False) -> None:
    """Bind the address once, because both gRPC libraries print lines of their own about an address in use.

    The socket does not listen: a listener on a shared port would get connections.

    Raises:
        OSError: the address cannot be bound.
    """
    with socket.socket(_family(host)) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT if shared else socket.SO_REUSEADDR, 1)
        probe.bind((host, port))


def reserve(host: str, port: int) -> socket.socket:
    """A socket that reserves a port for processes that will share it, and does not listen.

    Raises:
        OSError: the address cannot be bound.
    """
    reserved = socket.socket(_family(host))
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    reserved.bind((host, port))
    return reserved


def close_listeners(port: int) -> None:
    """Accept no more connections on the port. Open ones stay; other processes that share the port still accept."""
    for listener in _sockets(port, listening=True):
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)


def open_connections(port: int) -> int:
    """The number of open connections to the port."""
    return sum(1 for _ in _sockets(port, listening=False))


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _sockets(port: int, *, listening: bool) -> Iterator[socket.socket]:
    """A duplicate of each TCP socket of this process on the port; it is closed when the iteration goes on."""
    folder = Path("/proc/self/fd")
    for entry in list(folder.iterdir()) if folder.is_dir() else []:
        with contextlib.suppress(OSError):
            if not str(entry.readlink()).startswith("socket:"):
                continue
            with socket.socket(fileno=os.dup(int(entry.name))) as duplicate:
                if duplicate.family not in (socket.AF_INET, socket.AF_INET6) or duplicate.getsockname()[1] != port:
                    continue
                accepts = bool(duplicate.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
                if accepts == listening and (listening or duplicate.getpeername()):
                    yield duplicate
