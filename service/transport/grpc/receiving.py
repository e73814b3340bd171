"""How the aio server receives request messages: with the caller's token checked, in time, and within memory.

Every handler runs as soon as a call's headers are there, and reads the message itself; until then HTTP/2's flow control
holds the message back. A message that takes longer than SLOW_SECONDS to arrive is slow; the network's speed bounds what
faster ones hold. Slow ones must arrive within RECEIVE_SECONDS. They may take half of the memory that was free without
them; beyond that, they are refused, the oldest first. A stream's messages may be any time apart, so only memory bounds
them. Not here: authorization and the handlers (aio_server.py), memory (memory.py), limits of size, which gRPC checks
as soon as it has a message's length (limits.py).
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

from service.core.errors import DeadlineExceeded, MemoryShort, ServiceError
from service.transport.grpc.memory import give_back

SLOW_SECONDS, RECEIVE_SECONDS = 0.05, 60.0
CHECK_SECONDS = 0.025  # between two looks at the messages that arrive, and at memory, which take 0.2 ms
GIVE_BACK_SECONDS = 1.0  # after a refusal, when the memory of refused messages is free

T = TypeVar("T")


class Receiving:
    """The messages of one server that are arriving. `memory` returns the bytes in use and their limit."""

    def __init__(self, memory: Callable[[], tuple[int, int]]) -> None:
        self._memory = memory
        self._used, _ = memory()  # without slow messages
        self._arriving: dict[asyncio.Task[object], tuple[float, bool]] = {}  # since when, and whether of a stream
        self._refused: dict[asyncio.Task[object], ServiceError] = {}
        self._checking = False
        self._giving_back = False

    async def message(self, read: Awaitable[T], *, streamed: bool = False) -> T:
        """The message that `read` waits for.

        Raises:
            MemoryShort: it arrived slowly while memory was short.
            DeadlineExceeded: it took longer than RECEIVE_SECONDS, and is not `streamed`.
        """
        task = asyncio.current_task()
        assert task is not None
        loop = asyncio.get_running_loop()
        self._arriving[task] = (loop.time(), streamed)
        if not self._checking:
            self._checking = True
            loop.call_later(CHECK_SECONDS, self._check, loop)
        try:
            return await read
        except asyncio.CancelledError:
            error = self._refused.pop(task, None)
            if error is None:
                raise
            task.uncancel()
            raise error from None
        finally:
            self._arriving.pop(task, None)

    async def messages(self, requests: AsyncIterator[T]) -> AsyncIterator[T]:
        """The messages of a stream. Raises MemoryShort as `message` does."""
        while True:
            try:
                yield await self.message(anext(requests), streamed=True)
            except StopAsyncIteration:
                return

    def _check(self, loop: asyncio.AbstractEventLoop) -> None:
        """Refuse messages that take too long and, while memory is short, the older half of the slow ones."""
        now = loop.time()
        slow = [
            (task, since, streamed) for task, (since, streamed) in self._arriving.items() if now - since > SLOW_SECONDS
        ]
        for task, since, streamed in slow:
            if not streamed and now - since > RECEIVE_SECONDS:
                self._refuse(task, DeadlineExceeded(f"the request did not arrive within {RECEIVE_SECONDS:.0f} seconds"))
        if self._memory_short(slow=bool(slow)):
            for task, _, _ in slow[: (len(slow) + 1) // 2]:
                self._refuse(task, MemoryShort())
            if not self._giving_back:
                self._giving_back = True
                loop.call_later(GIVE_BACK_SECONDS, self._give_back, loop)
        self._checking = bool(self._arriving)
        if self._checking:
            loop.call_later(CHECK_SECONDS, self._check, loop)

    def _memory_short(self, *, slow: bool) -> bool:
        """Whether slow messages take more than half of the memory that is free without them."""
        used, limit = self._memory()
        if not (slow or self._giving_back):  # else it holds what was refused
            self._used = used
        return slow and used > (self._used + limit) / 2

    def _give_back(self, loop: asyncio.AbstractEventLoop) -> None:
        self._giving_back = False
        loop.run_in_executor(None, give_back)

    def _refuse(self, task: asyncio.Task[object], error: ServiceError) -> None:
        if task in self._arriving:
            del self._arriving[task]
            self._refused[task] = error
            task.cancel()
