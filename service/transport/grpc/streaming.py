"""One ModelStreamInfer call: many requests in flight, each answered when it is done, whatever became of the others.

Owns which requests of the stream are in flight, and the bound on them: a client that does not read its answers is not
read from. Does not own: how answers look on the wire (response.py).
"""

import asyncio
import functools
from collections.abc import AsyncGenerator, AsyncIterator, Callable

from service.core.errors import ServiceError
from service.inference.handler import PendingInfer

# Requests of one stream that are in flight, answers that its client has not read included.
MAX_STREAM_REQUESTS = 1024

# Takes a request's bytes and gives what its answer will be, and the request itself if it was queued.
Submit = Callable[[bytes], tuple[asyncio.Future[bytes], PendingInfer | None]]


class InferenceStream:
    """The requests of one stream."""

    def __init__(self, requests: AsyncIterator[bytes], submit: Submit) -> None:
        self._requests = requests
        self._submit = submit
        self._in_flight = asyncio.Semaphore(MAX_STREAM_REQUESTS)
        self._pending: dict[asyncio.Future[bytes], PendingInfer | None] = {}
        self._responses: asyncio.Queue[tuple[bytes, bytes | ServiceError] | None] = asyncio.Queue()

    async def responses(self) -> AsyncGenerator[tuple[bytes, bytes | ServiceError]]:
        """Each request and its serialised answer or error, in the order in which they are done."""
        reader = asyncio.create_task(self._read())
        try:
            while (answer := await self._responses.get()) is not None:
                yield answer
                self._in_flight.release()
            await reader  # raises what went wrong there
        finally:
            reader.cancel()
            for future, request in self._pending.items():
                future.cancel()
                if request is not None:
                    request.cancel()

    async def _read(self) -> None:
        try:
            async for payload in self._requests:
                await self._in_flight.acquire()
                future, request = self._submit(payload)
                self._pending[future] = request
                future.add_done_callback(functools.partial(self._done, payload))
            while self._pending:
                await asyncio.wait(self._pending)
        finally:
            self._responses.put_nowait(None)

    def _done(self, payload: bytes, future: asyncio.Future[bytes]) -> None:
        self._pending.pop(future, None)
        if future.cancelled():
            return
        error = future.exception()
        self._responses.put_nowait((payload, future.result() if error is None else _known(error)))


def _known(error: BaseException) -> ServiceError:
    if not isinstance(error, ServiceError):
        raise error
    return error
