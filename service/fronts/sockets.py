"""The sockets of this process on a port: to accept no more, and to see who is left, for which gRPC has no calls.

Linux only, by /proc; elsewhere nothing is found and nothing done.
"""

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path


def stop_listening(port: int) -> None:
    """Accept no more connections on the port; those that are open stay. Where others share it, they take new ones."""
    for listener in _sockets(port, listening=True):
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)


def connections(port: int) -> int:
    """How many connections to the port are open."""
    return sum(1 for _ in _sockets(port, listening=False))


def _sockets(port: int, *, listening: bool) -> Iterator[socket.socket]:
    """A duplicate of each TCP socket on the port, closed after its turn."""
    folder = Path("/proc/self/fd")
    for entry in list(folder.iterdir()) if folder.is_dir() else []:
        with contextlib.suppress(OSError):
            if not str(entry.readlink()).startswith("socket:"):
                continue
            with socket.socket(fileno=os.dup(int(entry.name))) as found:
                if found.family not in (socket.AF_INET, socket.AF_INET6) or found.getsockname()[1] != port:
                    continue
                accepts = bool(found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
                if accepts == listening and (listening or found.getpeername()):
                    yield found
