"""Finding and closing the listening sockets of this process."""

import socket

import pytest

from service.transport.grpc.listeners import close_listeners, open_connections


def test_closing_listeners_refuses_new_connections_and_keeps_open_ones() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):
            accepted, _ = server.accept()
            assert open_connections(port) == 1
            close_listeners(port)
            with pytest.raises(OSError, match="refused"):
                socket.create_connection(("127.0.0.1", port), timeout=1)
            accepted.sendall(b"still open")
            accepted.close()
            assert open_connections(port) == 0
