"""Brings responses from the engines' threads to the aio server's event loop, with one wake-up for many responses."""

import asyncio
import contextlib
from collections import deque

from service.core.errors import ServiceError


class LoopResponseSink:
    """Hands responses from the engines' threads to the event loop; one wake-up of the loop delivers many."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._results: deque[tuple[asyncio.Future[bytes], bytes | ServiceError]] = deque()
        self._woken = False

    def respond(self, call: asyncio.Future[bytes], payload: bytes) -> None:
        """Give the serialised response to the coroutine that waits for `call`."""
        self._put(call, payload)

    def fail(self, call: asyncio.Future[bytes], error: ServiceError) -> None:
        """Raise the error in the coroutine that waits for `call`."""
        self._put(call, error)

    def _put(self, future: asyncio.Future[bytes], result: bytes | ServiceError) -> None:
        self._results.append((future, result))
        if not self._woken:
            self._woken = True
            with contextlib.suppress(RuntimeError):  # the loop has ended, and its calls with it
                self._loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        self._woken = False  # first, so that results put from now on wake the loop again
        while self._results:
            future, result = self._results.popleft()
            if future.done():  # its call was cancelled
                continue
            if isinstance(result, ServiceError):
                future.set_exception(result)
            else:
                future.set_result(result)
