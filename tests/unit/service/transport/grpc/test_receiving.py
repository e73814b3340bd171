"""Messages that arrive: slow ones are refused in time, and while memory is short."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any

import pytest

from service.core.errors import DeadlineExceeded, MemoryShort
from service.transport.grpc import receiving
from service.transport.grpc.receiving import Receiving


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receiving, "SLOW_SECONDS", 0.0)
    monkeypatch.setattr(receiving, "CHECK_SECONDS", 0.001)


def plenty() -> tuple[int, int]:
    return 10, 100


def shrinking() -> Callable[[], tuple[int, int]]:
    """Memory of which 10 % is in use at first, then 99 %."""
    uses = itertools.chain([10], itertools.repeat(99))
    return lambda: (next(uses), 100)


async def forever() -> bytes:
    await asyncio.Event().wait()
    return b""


async def at_once() -> bytes:
    return b"message"


async def outcome(call: Awaitable[object]) -> object:
    try:
        return await call
    except Exception as error:  # noqa: BLE001 # it is what the tests look at
        return type(error)


Messages = list[Coroutine[Any, Any, bytes]]


async def outcomes(bounds: Receiving, messages: Messages, *, streamed: bool = False) -> list[object]:
    calls = [asyncio.create_task(outcome(bounds.message(message, streamed=streamed))) for message in messages]
    return await asyncio.gather(*calls)


def test_a_message_that_is_there_is_returned() -> None:
    assert asyncio.run(outcomes(Receiving(shrinking()), [at_once()])) == [b"message"]


@pytest.mark.parametrize("streamed", [False, True])
def test_slow_messages_are_refused_while_memory_is_short(streamed: bool) -> None:
    refused = asyncio.run(outcomes(Receiving(shrinking()), [forever() for _ in range(9)], streamed=streamed))
    assert refused == [MemoryShort] * 9


def test_the_older_half_of_the_slow_messages_is_refused_first() -> None:
    uses = itertools.chain([10, 99], itertools.repeat(10))

    async def run() -> list[bool]:
        bounds = Receiving(lambda: (next(uses), 100))
        calls = [asyncio.create_task(outcome(bounds.message(forever()))) for _ in range(5)]
        await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.sleep(0.01)
        done = [call.done() for call in calls]
        for call in calls:
            call.cancel()
        return done

    assert asyncio.run(run()) == [True, True, True, False, False]


def test_slow_messages_may_take_half_of_the_memory_that_was_free() -> None:
    """With 60 % in use without them: until 80 %."""

    async def run(used: int) -> bool:
        uses = itertools.chain([60], itertools.repeat(used))
        call = asyncio.create_task(outcome(Receiving(lambda: (next(uses), 100)).message(forever())))
        await asyncio.sleep(0.02)
        refused = call.done()
        call.cancel()
        return refused

    assert [asyncio.run(run(used)) for used in (80, 81)] == [False, True]


def test_a_message_must_arrive_in_time_unless_it_is_of_a_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receiving, "RECEIVE_SECONDS", 0.0)

    async def run() -> tuple[object, bool]:
        bounds = Receiving(plenty)
        streamed = asyncio.create_task(bounds.message(forever(), streamed=True))
        late = await outcome(bounds.message(forever()))
        waits = not streamed.done()
        streamed.cancel()
        return late, waits

    assert asyncio.run(run()) == (DeadlineExceeded, True)


def test_a_caller_that_hangs_up_is_cancelled_as_ever() -> None:
    async def run() -> bool:
        call = asyncio.create_task(Receiving(plenty).message(forever()))
        await asyncio.sleep(0)
        call.cancel()
        await asyncio.wait([call])
        return call.cancelled()

    assert asyncio.run(run())


def test_a_stream_has_its_messages_until_memory_is_short() -> None:
    async def requests() -> AsyncIterator[bytes]:
        yield b"first"
        yield b"second"
        await forever()

    async def run() -> tuple[list[bytes], object]:
        seen: list[bytes] = []

        async def read() -> None:
            async for message in Receiving(shrinking()).messages(requests()):
                seen.append(message)  # noqa: PERF401 # kept although the stream fails

        return seen, await outcome(read())

    assert asyncio.run(run()) == ([b"first", b"second"], MemoryShort)
