"""One service as a process: its event loop, its signals and its exit.

SIGTERM and Ctrl-C stop the service (server.py); a second signal ends the process at once. SIGHUP scans the repository.
Exit status: 0 after a stop; 2 an address, the repository or the device is not available; 3 an engine broke, so that the
process's own supervisor restarts it. Not here: the service (server.py), several processes (supervisor.py).
"""

import asyncio
import logging
import os
import signal
import sys
import threading
from pathlib import Path
from typing import NoReturn

import structlog

from service.app.server import Attach, Server
from service.app.settings import Settings
from service.app.startup import CANNOT_START, CannotStart
from service.models.repository_thread import RepositoryThread

log = structlog.get_logger(__name__)

# `timeout`, a terminal or systemd sends one signal to a process and to its group. So what arrives within ECHO_SECONDS
# of a signal to stop is that signal again, and the stop begins after that time.
ECHO_SECONDS = 0.05


def serve(settings: Settings, *, attach: Attach | None = None, socket_folder: Path | None = None) -> int:
    """Run a service to its end and return the exit status. The arguments are Server's."""

    async def main() -> int:
        server = Server(settings, attach=attach, socket_folder=socket_folder)
        _handle_signals(server)
        return await server.run()

    try:
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            return runner.run(main())
    except CannotStart as error:
        print(f"error: {error}", file=sys.stderr)
        return CANNOT_START


def new_event_loop() -> asyncio.AbstractEventLoop:
    """An event loop of uvloop's, or of asyncio's own where uvloop does not exist, which is on Windows."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


def leave(status: int) -> NoReturn:
    """End the process, at once if it is still loading a version.

    Python's own exit would wait for the thread that verifies the version.
    """
    if any(isinstance(thread, RepositoryThread) for thread in threading.enumerate()):
        logging.shutdown()
        os._exit(status)
    sys.exit(status)


def _handle_signals(server: Server) -> None:
    """Handle SIGTERM, SIGINT and SIGHUP on the running event loop."""
    stopping = False

    def begin(number: signal.Signals) -> None:
        nonlocal stopping
        stopping = True
        server.request_stop(hurry=number == signal.SIGINT)

    def stop(number: signal.Signals) -> None:
        if stopping:
            log.error("second signal, exiting at once")
            server.remove_socket()
            os._exit(128 + number)
        loop.call_later(ECHO_SECONDS, begin, number)

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop, number)
    loop.add_signal_handler(signal.SIGHUP, server.request_scan)
