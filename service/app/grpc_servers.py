"""The gRPC servers of one process: the aio server, and the native server before it if that is chosen.

Owns opening them, the Unix socket between them, how clients leave them, and closing them. Not here: when that happens
(server.py), the servers themselves (transport/grpc/).
"""

import asyncio
import contextlib
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from service.app.settings import Settings
from service.app.startup import bind_errors
from service.core.lifecycle import Lifecycle
from service.inference.handler import InferenceHandler
from service.transport.grpc.aio_server import AioServer
from service.transport.grpc.listeners import close_listeners, join_address, open_connections
from service.transport.tls import ServerTls

if TYPE_CHECKING:
    from service.transport.grpc.native_server import NativeServer

log = structlog.get_logger(__name__)

# The servers close once no call was refused for QUIET_SECONDS, and at the latest after MAX_REFUSAL_SECONDS: a client
# that retries comes back on the same connection until that is closed.
QUIET_SECONDS, MAX_REFUSAL_SECONDS = 0.1, 0.3
# gRPC spreads the maximum ages of connections by a tenth, and a client takes a moment to leave.
AGE_SPREAD, LEAVING_SECONDS = 1.1, 0.5

# Makes the aio server for an address, with connections of that maximum age in seconds, with or without TLS.
MakeAio = Callable[[str, float, ServerTls | None], AioServer]


class GrpcServers:
    """`kind` is native or aio. The Unix socket lies in `socket_folder`; without one, in a temporary folder."""

    def __init__(self, settings: Settings, kind: str, handler: InferenceHandler, socket_folder: Path | None) -> None:
        self._settings = settings
        self._native_chosen = kind == "native"
        self._handler = handler
        self._socket_folder = socket_folder
        self._temporary_folder: tempfile.TemporaryDirectory[str] | None = None
        self._aio: AioServer | None = None
        self._native: NativeServer | None = None
        self.address = ""  # once the servers are open

    @property
    def opened(self) -> bool:
        """Whether `open` was called."""
        return self._aio is not None

    async def open(self, make_aio: MakeAio, tls: ServerTls | None) -> None:
        """Accept calls, with TLS if there is a certificate: then the aio server is chosen.

        Raises:
            CannotStart: the address cannot be bound.
        """
        settings = self._settings
        address = join_address(settings.host, settings.grpc_port)
        with bind_errors("--grpc-port", settings.host, settings.grpc_port, shared=settings.reuse_port):
            if self._native_chosen:
                fallback = self._socket_path()
                self._aio = make_aio(f"unix:{fallback}", 0.0, None)
                self._native = self._native_server(address, fallback)
            else:
                self._aio = make_aio(address, settings.max_connection_age_seconds, tls)
        self._port = (self._native or self._aio).port
        await self._aio.start()
        if self._native:
            self._native.start()
        self.address = join_address(settings.host, self._port)

    async def lame_duck(self, seconds: float, hurry: asyncio.Event) -> None:
        """Serve on for `seconds` and let clients leave; `hurry` ends both. 0 skips both."""
        moves_clients = self.opened and not self._native_chosen and seconds > 0
        if moves_clients and self._settings.reuse_port:
            close_listeners(self._port)  # the other processes accept new connections from now on
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(hurry.wait(), seconds)
        if moves_clients and self._settings.max_connection_age_seconds:
            await self._await_connection_ages(hurry)

    async def _await_connection_ages(self, hurry: asyncio.Event) -> None:
        """Accept no more connections, and serve until every open one has reached its maximum age."""
        close_listeners(self._port)
        limit = time.monotonic() + AGE_SPREAD * self._settings.max_connection_age_seconds + LEAVING_SECONDS
        while open_connections(self._port) and time.monotonic() < limit and not hurry.is_set():
            await asyncio.sleep(QUIET_SECONDS)

    async def close(self, lifecycle: Lifecycle, limit: float) -> None:
        """Refuse the calls that still arrive, then close: a closing server cancels calls instead of refusing them.

        Calls that take longer than until `limit`, on time.monotonic()'s clock, are cancelled.
        """
        if self._aio is None:
            return
        began = time.monotonic()
        last = began + MAX_REFUSAL_SECONDS
        while time.monotonic() < min(max(began, lifecycle.last_refused_at) + QUIET_SECONDS, last):
            await asyncio.sleep(QUIET_SECONDS / 10)
        if self._native:
            await asyncio.to_thread(self._native.close, max(0.0, limit - time.monotonic()))
        await self._aio.stop(max(0.0, limit - time.monotonic()))
        self.remove_socket()

    def remove_socket(self) -> None:
        """Remove the temporary folder; a socket folder is its owner's."""
        if self._temporary_folder:
            self._temporary_folder.cleanup()

    def _socket_path(self) -> str:
        if self._socket_folder is None:
            self._temporary_folder = tempfile.TemporaryDirectory(prefix="simplecnn-")
            self._socket_folder = Path(self._temporary_folder.name)
        return str(self._socket_folder / f"grpc-{os.getpid()}.sock")

    def _native_server(self, address: str, fallback: str) -> "NativeServer":
        from service.transport.grpc.native_server import NativeServer  # here, because pygrpc-native is optional

        return NativeServer(
            address,
            self._handler,
            fallback=fallback,
            max_message_bytes=self._settings.max_message_bytes,
            reuse_port=self._settings.reuse_port,
        )
