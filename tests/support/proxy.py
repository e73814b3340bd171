"""An HTTP proxy that records what it is asked for."""

import contextlib
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Proxy:
    """Answers every CONNECT request with a tunnel to `target`; `asked` has the first two words of each request."""

    def __init__(self, target: str) -> None:
        self.asked: list[str] = []
        host, _, port = target.rpartition(":")
        self._target = host, int(port)
        self._server = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._server.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Accept no more connections."""
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                caller, _ = self._server.accept()
                threading.Thread(target=self._serve, args=[caller], daemon=True).start()

    def _serve(self, caller: socket.socket) -> None:
        with caller, contextlib.suppress(OSError):
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                received = caller.recv(1)
                if not received:
                    return
                head += received
            method, target, *_ = head.decode().split()
            self.asked.append(f"{method} {target}")
            with socket.create_connection(self._target) as server:
                caller.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
                back = threading.Thread(target=_copy, args=[server, caller], daemon=True)
                back.start()
                _copy(caller, server)
                back.join()


def _copy(source: socket.socket, destination: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            destination.sendall(data)
        destination.shutdown(socket.SHUT_WR)


@contextmanager
def connect_proxy(target: str) -> Iterator[Proxy]:
    """A Proxy that is closed at the end."""
    proxy = Proxy(target)
    try:
        yield proxy
    finally:
        proxy.close()
