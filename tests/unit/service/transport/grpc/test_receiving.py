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


async def outcomes(bounds: Receiving, messages: Messages) -> list[object]:
    calls = [asyncio.create_task(outcome(bounds.message(message))) for message in messages]
    return await asyncio.gather(*calls)


async def stream(bounds: Receiving, messages: int) -> None:
    """A stream that has so many messages and waits for the next one."""

    async def requests() -> AsyncIterator[bytes]:
        for _ in range(messages):
            yield b"message"
        await forever()

    async for _ in bounds.messages(requests()):
        pass


async def refused(bounds: Receiving, *calls: Coroutine[Any, Any, object], seconds: float = 0.05) -> list[bool]:
    """Which calls are refused within that time; returns once all are."""
    tasks = [asyncio.create_task(outcome(call)) for call in calls]
    await asyncio.wait(tasks, timeout=seconds)
    done = [task.done() and task.result() is MemoryShort for task in tasks]
    for task in tasks:
        task.cancel()
    return done


def test_a_message_that_is_there_is_returned() -> None:
    assert asyncio.run(outcomes(Receiving(shrinking(), 60), [at_once()])) == [b"message"]


def test_slow_messages_are_refused_while_memory_is_short() -> None:
    assert asyncio.run(outcomes(Receiving(shrinking(), 60), [forever() for _ in range(9)])) == [MemoryShort] * 9


def test_the_older_half_of_the_slow_messages_is_refused_first() -> None:
    uses = itertools.chain([10, 99], itertools.repeat(10))

    async def run() -> list[bool]:
        bounds = Receiving(lambda: (next(uses), 100), 60)
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
        call = asyncio.create_task(outcome(Receiving(lambda: (next(uses), 100), 60).message(forever())))
        await asyncio.sleep(0.02)
        refused = call.done()
        call.cancel()
        return refused

    assert [asyncio.run(run(used)) for used in (80, 81)] == [False, True]


def test_a_message_must_arrive_in_time_unless_it_is_of_a_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receiving, "RECEIVE_SECONDS", 0.0)

    async def run() -> tuple[object, bool]:
        bounds = Receiving(plenty, 60)
        streamed = asyncio.create_task(stream(bounds, 0))
        late = await outcome(bounds.message(forever()))
        waits = not streamed.done()
        streamed.cancel()
        return late, waits

    assert asyncio.run(run()) == (DeadlineExceeded, True)


def test_a_caller_that_hangs_up_is_cancelled_as_ever() -> None:
    async def run() -> bool:
        call = asyncio.create_task(Receiving(plenty, 60).message(forever()))
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
            async for message in Receiving(shrinking(), 60).messages(requests()):
                seen.append(message)  # noqa: PERF401 # kept although the stream fails

        return seen, await outcome(read())

    assert asyncio.run(run()) == ([b"first", b"second"], MemoryShort)


def test_an_open_stream_is_not_refused_for_memory_that_a_model_takes() -> None:
    """With 15 % in use at first, then 60 %."""
    uses = itertools.chain([15, 15, 15], itertools.repeat(60))

    async def run() -> list[bool]:
        bounds = Receiving(lambda: (next(uses), 100), 60)
        return await refused(bounds, stream(bounds, 0), stream(bounds, 9))

    assert asyncio.run(run()) == [False, False]


def test_what_is_in_use_without_slow_messages_is_looked_at_while_a_stream_is_open(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A message that arrives slowly while a stream is open may take half of what is free now."""
    now = [15]

    async def run() -> list[bool]:
        bounds = Receiving(lambda: (now[0], 100), 60)
        waiting = asyncio.create_task(stream(bounds, 1))
        monkeypatch.setattr(receiving, "SLOW_SECONDS", 0.1)
        await asyncio.sleep(0.15)  # the stream would be slow, if it were a unary call
        now[0] = 60
        await outcome(bounds.message(asyncio.sleep(0.01)))  # the look at memory that a fast message brings
        monkeypatch.setattr(receiving, "SLOW_SECONDS", 0.0)
        now[0] = 70
        refusals = await refused(bounds, bounds.message(forever()))
        waiting.cancel()
        return refusals

    assert asyncio.run(run()) == [False]


def test_freed_memory_is_given_back_before_a_stream_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """99 % is in use until then, and 20 % after it."""
    used = [99]
    monkeypatch.setattr(receiving, "give_back", lambda: used.__setitem__(0, 20))

    async def run() -> list[bool]:
        bounds = Receiving(lambda: (used[0], 100), 60)
        return await refused(bounds, stream(bounds, 0), stream(bounds, 9))

    assert asyncio.run(run()) == [False, False] and used == [20]


def test_unary_messages_are_refused_before_streams() -> None:
    """The stream is older."""
    uses = itertools.chain([10] * 3, itertools.repeat(79))

    async def run() -> list[bool]:
        bounds = Receiving(lambda: (next(uses), 100), 60)
        return await refused(bounds, stream(bounds, 0), bounds.message(forever()))

    assert asyncio.run(run()) == [False, True]


@pytest.mark.parametrize(("used", "expected"), [(81, [False, True]), (93, [True, False]), (80, [False, False])])
def test_streams_that_never_had_a_message_are_refused_first(used: int, expected: list[bool]) -> None:
    """Past 92 %, the one that waits longer; it stays at that, because memory does not grow any more."""
    uses = itertools.chain([10], itertools.repeat(used))

    async def run() -> list[bool]:
        bounds = Receiving(lambda: (next(uses), 100), 60)
        return await refused(bounds, stream(bounds, 1), stream(bounds, 0))

    assert asyncio.run(run()) == expected


def test_streams_are_refused_while_memory_grows() -> None:
    """The first look past 80 % gives freed memory back."""
    uses = itertools.chain([100, 810], range(810, 999, 11), itertools.repeat(999))

    async def run() -> list[bool]:
        bounds = Receiving(lambda: (next(uses), 1000), 60)
        return await refused(bounds, *(stream(bounds, index % 2) for index in range(20)), seconds=10)

    assert asyncio.run(run()) == [True] * 20


def test_streams_with_messages_that_fit_in_what_is_left_are_not_refused() -> None:
    uses = itertools.chain([10], itertools.repeat(96))

    async def run() -> list[bool]:
        bounds = Receiving(lambda: (next(uses), 100), 2)
        return await refused(bounds, stream(bounds, 0), stream(bounds, 0))

    assert asyncio.run(run()) == [False, False]


def test_an_idle_stream_looks_at_memory_once_a_second() -> None:
    looks = itertools.count()

    async def run() -> list[bool]:
        bounds = Receiving(lambda: (next(looks) * 0 + 10**9, 10**10), 60)
        return await refused(bounds, stream(bounds, 1))

    asyncio.run(run())
    assert next(looks) == 2  # as the server starts, and soon after the stream
