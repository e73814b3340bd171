"""One ModelStreamInfer call: many requests in flight, each answered when it is done, whatever became of the others.

Owns which requests of the stream are in flight, and the bound on them: a client that does not read its answers is not
read from. Does not own: how answers look on the wire (response.py).
"""

import asyncio
import functools
from collections.abc import AsyncGenerator, AsyncIterator, Callable

from service.errors import ServiceError
from service.protocol import InferRequest

# Requests of one stream that are in flight, answers that its client has not read included.
IN_FLIGHT = 1024

# Takes a request's bytes and gives what its answer will be, and the request itself if it was queued.
Accept = Callable[[bytes], tuple[asyncio.Future[bytes], InferRequest | None]]


class InferStream:
    """The requests of one stream."""

    def __init__(self, requests: AsyncIterator[bytes], accept: Accept) -> None:
        self._requests = requests
        self._accept = accept
        self._room = asyncio.Semaphore(IN_FLIGHT)
        self._pending: dict[asyncio.Future[bytes], InferRequest | None] = {}
        self._answers: asyncio.Queue[tuple[bytes, bytes | ServiceError] | None] = asyncio.Queue()

    async def answers(self) -> AsyncGenerator[tuple[bytes, bytes | ServiceError]]:
        """Each request and its serialised answer or error, in the order in which they are done."""
        reader = asyncio.create_task(self._read())
        try:
            while (answer := await self._answers.get()) is not None:
                yield answer
                self._room.release()
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
                await self._room.acquire()
                future, request = self._accept(payload)
                self._pending[future] = request
                future.add_done_callback(functools.partial(self._done, payload))
            while self._pending:
                await asyncio.wait(self._pending)
        finally:
            self._answers.put_nowait(None)

    def _done(self, payload: bytes, future: asyncio.Future[bytes]) -> None:
        self._pending.pop(future, None)
        if future.cancelled():
            return
        error = future.exception()
        self._answers.put_nowait((payload, future.result() if error is None else _known(error)))


def _known(error: BaseException) -> ServiceError:
    if not isinstance(error, ServiceError):
        raise error
    return error
