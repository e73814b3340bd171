"""Attacks by what calls carry: compressed, large, slow and cut bodies, large headers, no and wrong tokens.

Each returns how its calls ended. Not here: frames and connections (floods.py), HTTP/2 (wire.py).
"""

import asyncio
import contextlib
import dataclasses
import time
import zlib
from collections import Counter
from collections.abc import Coroutine, Sequence
from typing import Any

from tests.soaks.attacks.wire import MODEL_INFER, STREAM_INFER, Address, Connection, message_header

MIB = 2**20
BOMBS, BOMB_BYTES = 16, 2**30
LARGE, LARGE_BYTES = 16, 600 * MIB
SLOW_CONNECTIONS, SLOW_STREAMS, SLOW_BYTES = 20, 10, 60 * MIB
SLOW_RATE = MIB // 2  # bytes per second of each body: 200 of them send 100 MiB per second
SLOW_SECONDS = 20.0
TOKENLESS, WRONG_TOKEN = 200, "Bearer wrong"
HEADER_BYTES = MIB
ANSWER_SECONDS = 20.0


async def gzip_bombs(address: Address) -> Counter[str]:
    """Calls whose 1 MB decompresses to 1 GiB, all at once."""
    body = _bomb()

    async def attack(index: int) -> Counter[str]:
        connection = await Connection.open(address)
        path = (MODEL_INFER, STREAM_INFER)[index % 2]
        stream = connection.call(path, [("grpc-encoding", "gzip")])
        await connection.body(stream, message_header(len(body), compressed=True) + body, end=True)
        return await _outcomes(connection)

    return await _all([attack(index) for index in range(BOMBS)])


async def large_messages(address: Address) -> Counter[str]:
    """Messages of 600 MiB, sent whole."""

    async def attack() -> Counter[str]:
        connection = await Connection.open(address)
        stream = connection.call()
        await connection.body(stream, message_header(LARGE_BYTES))
        for _ in range(LARGE_BYTES // MIB):
            if not await connection.body(stream, bytes(MIB)):
                break
        return await _outcomes(connection)

    return await _all([attack() for _ in range(LARGE)])


async def slow_bodies(address: Address, path: str = MODEL_INFER) -> Counter[str]:
    """200 bodies of 60 MiB, slowly and without their last bytes, for 20 s; calls that are refused are made again."""
    end = time.monotonic() + SLOW_SECONDS

    async def call(connection: Connection, ended: Counter[str]) -> None:
        stream = connection.call(path)
        await connection.body(stream, message_header(SLOW_BYTES))
        began, sent = time.monotonic(), 0
        while time.monotonic() < end and not connection.ended(stream):
            due = min(SLOW_BYTES - 1, int((time.monotonic() - began) * SLOW_RATE))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, end - time.monotonic())):
                    await connection.body(stream, bytes(due - sent))
            sent = due
            await asyncio.sleep(0.1)
        ended[connection.end or connection.calls[stream]] += 1

    async def attack() -> Counter[str]:
        ended: Counter[str] = Counter()
        while time.monotonic() < end:
            with contextlib.suppress(OSError):
                connection = await Connection.open(address)
                await asyncio.gather(*(call(connection, ended) for _ in range(SLOW_STREAMS)))
                connection.close()
            await asyncio.sleep(0.1)
        return ended

    return await _all([attack() for _ in range(SLOW_CONNECTIONS)])


async def slow_streams(address: Address) -> Counter[str]:
    """The same as messages of ModelStreamInfer."""
    return await slow_bodies(address, STREAM_INFER)


async def large_headers(address: Address) -> Counter[str]:
    """Calls with a header of 1 MiB."""

    async def attack() -> Counter[str]:
        connection = await Connection.open(address)
        connection.call(headers=[("x-large", "a" * HEADER_BYTES)], end=True)
        return await _outcomes(connection)

    return await _all([attack() for _ in range(50)])


async def no_token(address: Address) -> Counter[str]:
    """Calls without a token that send 60 MiB each."""
    return await _with_token(dataclasses.replace(address, authorization=""))


async def wrong_tokens(address: Address) -> Counter[str]:
    """The same with a token that is not valid."""
    return await _with_token(dataclasses.replace(address, authorization=WRONG_TOKEN))


async def _with_token(address: Address) -> Counter[str]:
    async def call(connection: Connection) -> None:
        stream = connection.call()
        await connection.body(stream, message_header(SLOW_BYTES))
        for _ in range(SLOW_BYTES // MIB):
            if not await connection.body(stream, bytes(MIB)):
                break

    async def attack() -> Counter[str]:
        connection = await Connection.open(address)
        await asyncio.gather(*(call(connection) for _ in range(10)))
        return await _outcomes(connection)

    return await _all([attack() for _ in range(TOKENLESS // 10)])


async def _all(attacks: Sequence[Coroutine[Any, Any, Counter[str]]]) -> Counter[str]:
    total: Counter[str] = Counter()
    for outcome in await asyncio.gather(*attacks, return_exceptions=True):
        if isinstance(outcome, OSError):
            total["not connected"] += 1
        elif isinstance(outcome, BaseException):
            raise outcome
        else:
            total += outcome
    return total


async def _outcomes(connection: Connection) -> Counter[str]:
    await connection.finished(ANSWER_SECONDS)
    connection.close()
    return connection.outcomes()


def _bomb() -> bytes:
    """BOMB_BYTES zeros in gzip's format."""
    compressor = zlib.compressobj(9, zlib.DEFLATED, 31)
    zeros = bytes(MIB)
    return b"".join(compressor.compress(zeros) for _ in range(BOMB_BYTES // MIB)) + compressor.flush()
