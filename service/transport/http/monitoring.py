"""The HTTP endpoints for operators: /metrics for Prometheus, /livez and /readyz for probes.

Owns the endpoints, their limits on connections and idle time, and who needs a client certificate. Not here: the metrics
(telemetry/collector.py), certificates (transport/tls.py).
"""

import contextlib
import socket
import ssl
import sys
import threading
from collections.abc import Callable, Iterable
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.exposition import ThreadingWSGIServer

from service.transport.tls import ServerTls

# Seconds after which a connection that sends nothing is closed.
IDLE_TIMEOUT_SECONDS = 5
MAX_CONNECTIONS = 32
# Set for an application if the connection lacks the client certificate that /metrics needs.
NO_CLIENT_CERTIFICATE = "simplecnn.no_client_certificate"


class MonitoringServer:
    """Serves the endpoints, with a thread for each connection, over TLS if that is given.

    `unready_reason` returns "" or the reason that /readyz answers with 503. With a CA of clients, /metrics needs a
    certificate; probes do not, for a kubelet has none.

    Raises:
        OSError: the address cannot be bound.
    """

    def __init__(
        self,
        host: str,
        port: int,
        registry: CollectorRegistry,
        unready_reason: Callable[[], str],
        tls: ServerTls | None = None,
    ) -> None:
        metrics: Callable[..., Iterable[bytes]] = make_wsgi_app(registry)

        def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
            match environ["PATH_INFO"]:
                case "/metrics" if environ[NO_CLIENT_CERTIFICATE]:
                    status, body = "403 Forbidden", "/metrics needs a client certificate"
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
        self._server = make_server(host, port, application, server, _Handler)
        self.port: int = self._server.server_port
        self._server.tls = tls
        scheme, name = "https" if tls else "http", f"[{host}]" if ":" in host else host
        self.url = f"{scheme}://{name}:{self.port}/metrics"
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
    request_queue_size = MAX_CONNECTIONS  # Python's 5 made the sixth of connections that come at once wait a second
    tls: ServerTls | None = None

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
            if self.tls:  # the handshake is here, so that a client that sends nothing holds this thread alone
                request.settimeout(IDLE_TIMEOUT_SECONDS)
                request = self.tls.context.wrap_socket(request, server_side=True)
            super().process_request_thread(request, client_address)
        except OSError:  # the handshake failed, and wrap_socket has closed the connection
            return
        finally:
            self._connections.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Leave out errors of the connection; Python's default writes a traceback for each."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        if isinstance(request, ssl.SSLSocket):
            with contextlib.suppress(OSError, ValueError):
                request.settimeout(0)
                request.unwrap()  # tells the client that the response is complete; does not wait for its answer
        super().shutdown_request(request)


class _V6Server(_Server):
    address_family = socket.AF_INET6


class _Handler(WSGIRequestHandler):
    timeout = IDLE_TIMEOUT_SECONDS

    def get_environ(self) -> dict[str, Any]:
        request = self.request
        wanted = isinstance(request, ssl.SSLSocket) and request.context.verify_mode is not ssl.CERT_NONE
        return super().get_environ() | {NO_CLIENT_CERTIFICATE: wanted and not request.getpeercert()}

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing: probes come every second."""
