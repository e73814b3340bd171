"""What happens when an engine breaks, when replicas share a port, and when connections come of age."""

import socket

import pytest

from service.transport.grpc.listeners import close_listeners, open_connections


def test_sockets_of_this_process_are_found_and_closed_to_new_connections() -> None:
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
