"""One ModelStreamInfer call: many requests in flight, each answered as soon as it is done, in any order.

Owns the stream's requests in flight, and the limit on their number, which is the stream's backpressure: the server
reads no further requests from a client that does not read its responses. Not here: the encoding of responses
(inference/encode.py).
"""

import asyncio
import functools
from collections.abc import AsyncGenerator, AsyncIterator, Callable

from service.core.errors import ServiceError
from service.inference.handler import PendingInfer

# Requests in flight on one stream at most, including those with responses that the client has not read.
MAX_STREAM_REQUESTS = 1024

# Takes a serialised request; returns the future of its response, and the pending request if it was queued.
Submit = Callable[[bytes], tuple[asyncio.Future[bytes], PendingInfer | None]]


class InferenceStream:
    """The requests of one ModelStreamInfer call and their responses."""

    def __init__(self, requests: AsyncIterator[bytes], submit: Submit) -> None:
        self._requests = requests
        self._submit = submit
        self._in_flight = asyncio.Semaphore(MAX_STREAM_REQUESTS)
        self._pending: dict[asyncio.Future[bytes], PendingInfer | None] = {}
        self._responses: asyncio.Queue[tuple[bytes, bytes | ServiceError] | None] = asyncio.Queue()

    async def responses(self) -> AsyncGenerator[tuple[bytes, bytes | ServiceError]]:
        """Each serialised request with its serialised response or error, in the order of completion."""
        reader = asyncio.create_task(self._read())
        try:
            while (response := await self._responses.get()) is not None:
                yield response
                self._in_flight.release()
            await reader  # raises its exception
        finally:
            reader.cancel()
            for future, request in self._pending.items():
                future.cancel()
                if request is not None:
                    request.cancel()

    async def _read(self) -> None:
        refusal: ServiceError | None = None
        try:
            try:
                await self._submit_all()
            except ServiceError as error:  # the stream ends with it, after the responses to what was accepted
                refusal = error
            while self._pending:
                await asyncio.wait(self._pending)
            if refusal is not None:
                raise refusal
        finally:
            self._responses.put_nowait(None)

    async def _submit_all(self) -> None:
        async for payload in self._requests:
            await self._in_flight.acquire()
            future, request = self._submit(payload)
            self._pending[future] = request
            future.add_done_callback(functools.partial(self._done, payload))

    def _done(self, payload: bytes, future: asyncio.Future[bytes]) -> None:
        self._pending.pop(future, None)
        if future.cancelled():
            return
        error = future.exception()
        self._responses.put_nowait((payload, future.result() if error is None else _service_error(error)))


def _service_error(error: BaseException) -> ServiceError:
    if not isinstance(error, ServiceError):
        raise error
    return error
