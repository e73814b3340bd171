"""How the aio server receives request messages: with the caller's token checked, in time, and within memory.

Every handler runs as soon as a call's headers are there, and reads the message itself; until then HTTP/2's flow control
holds the message back. A message that takes longer than SLOW_SECONDS to arrive is slow; the network's speed bounds what
faster ones hold. Slow messages of unary calls must arrive within RECEIVE_SECONDS. They may take half of the memory that
was free without them; beyond that, they are refused, the oldest first, which hold the most.

A stream's messages may be any time apart, and nothing tells a stream that waits from one with a message on its way.
Streams are therefore refused last, as memory grows past SHORT of the limit, and only if their messages may not fit in
what is left: first those without a message yet, past VERY_SHORT all. Before that, freed memory is given back to the
kernel, which may be all that is missing.

Not here: authorization and the handlers (aio_server.py), memory (memory.py), limits of size, which gRPC checks as soon
as it has a message's length (limits.py).
"""

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import TypeVar

from service.core.errors import DeadlineExceeded, MemoryShort, ServiceError
from service.transport.grpc.memory import give_back

SLOW_SECONDS, RECEIVE_SECONDS = 0.05, 60.0
CHECK_SECONDS = 0.025  # between two looks at the messages that arrive, and at memory, which take 0.2 ms
STREAM_SECONDS = 1.0  # between two looks at streams, at most
GIVE_BACK_SECONDS = 1.0  # after a refusal, when the memory of refused messages is free; between two times, at least
# Shares of the limit on memory. VERY_SHORT is above half of what SHORT leaves, where unary messages are refused.
SHORT, VERY_SHORT = 0.8, 0.92
STEP = 0.01  # share by which memory grows between two refusals of streams: what does not grow endangers nothing
FASTEST = 1.25e9  # bytes that arrive per second at most: 10 Gbit/s

T = TypeVar("T")


class Receiving:
    """The messages of one server that are arriving. `memory` returns the bytes in use and their limit."""

    def __init__(self, memory: Callable[[], tuple[int, int]], max_message_bytes: int) -> None:
        self._memory = memory
        self._max_message_bytes = max_message_bytes
        self._used, _ = memory()  # without slow messages of unary calls
        self._unary: dict[asyncio.Task[object], float] = {}  # since when they wait for their message
        self._streams: dict[asyncio.Task[object], tuple[float, bool]] = {}  # and whether for their first one
        self._refused: dict[asyncio.Task[object], ServiceError] = {}
        self._checking = self._checking_streams = self._giving_back = False
        self._streams_refused_at = 0.0  # bytes in use at the last refusal of streams
        self._gave_back_at = -math.inf  # on the event loop's clock

    async def message(self, read: Awaitable[T]) -> T:
        """The message of a unary call, which `read` waits for.

        Raises:
            MemoryShort: it arrived slowly while memory was short.
            DeadlineExceeded: it took longer than RECEIVE_SECONDS.
        """
        loop = asyncio.get_running_loop()
        task = _current_task()
        self._unary[task] = loop.time()
        if not self._checking:
            self._checking = True
            loop.call_later(CHECK_SECONDS, self._check, loop)
        try:
            return await self._unless_refused(task, read)
        finally:
            self._unary.pop(task, None)

    async def messages(self, requests: AsyncIterator[T]) -> AsyncIterator[T]:
        """The messages of a stream.

        Raises:
            MemoryShort: the stream waited for a message while memory was short.
        """
        loop = asyncio.get_running_loop()
        first = True
        while True:
            task = _current_task()
            self._streams[task] = (loop.time(), first)
            if not self._checking_streams:
                self._checking_streams = True
                loop.call_later(CHECK_SECONDS, self._check_streams, loop)
            try:
                message = await self._unless_refused(task, anext(requests))
            except StopAsyncIteration:
                return
            finally:
                self._streams.pop(task, None)
            first = False
            yield message

    async def _unless_refused(self, task: asyncio.Task[object], read: Awaitable[T]) -> T:
        try:
            return await read
        except asyncio.CancelledError:
            error = self._refused.pop(task, None)
            if error is None:
                raise
            task.uncancel()
            raise error from None

    def _check(self, loop: asyncio.AbstractEventLoop) -> None:
        """Refuse unary messages that take too long and, while memory is short, the older half of the slow ones."""
        now = loop.time()
        slow = [task for task, since in self._unary.items() if now - since > SLOW_SECONDS]
        late = [task for task in slow if now - self._unary[task] > RECEIVE_SECONDS]
        self._refuse(late, DeadlineExceeded(f"the request did not arrive within {RECEIVE_SECONDS:.0f} seconds"))
        if self._memory_short(slow=bool(slow)):
            self._refuse_older_half(slow, loop)
        self._checking = bool(self._unary)
        if self._checking:
            loop.call_later(CHECK_SECONDS, self._check, loop)

    def _memory_short(self, *, slow: bool) -> bool:
        """Whether slow messages take more than half of the memory that is free without them."""
        used, limit = self._memory()
        if not (slow or self._giving_back):  # else it holds what was refused
            self._used = used
        return slow and used > (self._used + limit) / 2

    def _check_streams(self, loop: asyncio.AbstractEventLoop) -> None:
        """Refuse the older half of the streams that memory is too short for."""
        used, limit = self._memory()
        now = loop.time()
        self._streams_refused_at = min(self._streams_refused_at, used)
        if used > self._streams_threshold(limit) and len(self._streams) * self._max_message_bytes > limit - used:
            if now - self._gave_back_at > GIVE_BACK_SECONDS:
                self._give_back(loop)
            else:
                self._streams_refused_at = used
                self._refuse_older_half(self._slow_streams(now, all_of_them=used > VERY_SHORT * limit), loop)
        self._checking_streams = bool(self._streams)
        if self._checking_streams:  # again before memory can have grown past the threshold by much
            soonest = (self._streams_threshold(limit) - used) / FASTEST
            loop.call_later(min(max(soonest, CHECK_SECONDS), STREAM_SECONDS), self._check_streams, loop)

    def _slow_streams(self, now: float, *, all_of_them: bool) -> Sequence[asyncio.Task[object]]:
        """The streams that wait for a message: those without one yet, or all."""
        return [
            task
            for task, (since, first) in self._streams.items()
            if now - since > SLOW_SECONDS and (first or all_of_them)
        ]

    def _streams_threshold(self, limit: int) -> float:
        """Bytes in use from which streams are refused."""
        return max(SHORT * limit, self._streams_refused_at + STEP * limit)

    def _refuse_older_half(self, slow: Sequence[asyncio.Task[object]], loop: asyncio.AbstractEventLoop) -> None:
        self._refuse(slow[: (len(slow) + 1) // 2], MemoryShort())
        if not self._giving_back:
            self._giving_back = True
            loop.call_later(GIVE_BACK_SECONDS, self._give_back_refused, loop)

    def _give_back_refused(self, loop: asyncio.AbstractEventLoop) -> None:
        self._giving_back = False
        self._give_back(loop)

    def _give_back(self, loop: asyncio.AbstractEventLoop) -> None:
        self._gave_back_at = loop.time()
        loop.run_in_executor(None, give_back)

    def _refuse(self, tasks: Sequence[asyncio.Task[object]], error: ServiceError) -> None:
        for task in tasks:
            if task not in self._refused:
                self._refused[task] = error
                task.cancel()


def _current_task() -> asyncio.Task[object]:
    task = asyncio.current_task()
    assert task is not None
    return task
