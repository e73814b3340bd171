"""The HTTP endpoints for operators: /metrics for Prometheus, /livez and /readyz for probes.

Owns the endpoints, and their limits on connections and idle time. Not here: the metrics (telemetry/collector.py).
"""

import socket
import threading
from collections.abc import Callable, Iterable
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.exposition import ThreadingWSGIServer

# Seconds after which a connection that sends nothing is closed.
IDLE_TIMEOUT_SECONDS = 5
MAX_CONNECTIONS = 32


class MonitoringServer:
    """Serves the endpoints, with a thread for each connection.

    `unready_reason` returns "" or the reason that /readyz answers with 503.

    Raises:
        OSError: the address cannot be bound.
    """

    def __init__(self, host: str, port: int, registry: CollectorRegistry, unready_reason: Callable[[], str]) -> None:
        metrics: Callable[..., Iterable[bytes]] = make_wsgi_app(registry)

        def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
            match environ["PATH_INFO"]:
                case "/metrics":
                    return metrics(environ, start_response)
                case "/livez":
                    status, body = "200 OK", "live"
                case "/readyz":
                    reason = unready_reason()
                    status, body = ("503 Service Unavailable", reason) if reason else ("200 OK", "ready")
                case _:
                    status, body = "404 Not Found", "the paths are /metrics, /livez and /readyz"
            start_response(status, [("Content-Type", "text/plain; charset=utf-8")])
            return [f"{body}\n".encode()]

        server = _V6Server if ":" in host else _Server
        self._server: WSGIServer = make_server(host, port, application, server, _Handler)
        self.port: int = self._server.server_port
        self.url = f"http://[{host}]:{self.port}/metrics" if ":" in host else f"http://{host}:{self.port}/metrics"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), name="metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingWSGIServer):
    """A thread for each connection, up to MAX_CONNECTIONS; further connections are closed at once."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, *arguments: Any) -> None:
        self._connections = threading.BoundedSemaphore(MAX_CONNECTIONS)
        super().__init__(*arguments)

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._connections.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._connections.release()


class _V6Server(_Server):
    address_family = socket.AF_INET6


class _Handler(WSGIRequestHandler):
    timeout = IDLE_TIMEOUT_SECONDS

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing: probes come every second."""
