"""Every attack by name, one run of it, and its outcome. Not here: what they do (bodies.py, floods.py)."""

import asyncio
import resource
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

from tests.soaks.attacks import bodies, floods
from tests.soaks.attacks.wire import Address

Attack = Callable[[Address], Coroutine[Any, Any, Counter[str]]]

ATTACKS: dict[str, Attack] = {
    attack.__name__.replace("_", "-"): attack
    for attack in (
        bodies.gzip_bombs,
        bodies.large_messages,
        bodies.slow_bodies,
        bodies.slow_streams,
        bodies.large_headers,
        bodies.no_token,
        bodies.wrong_tokens,
        floods.rapid_reset,
        floods.continuation_flood,
        floods.ping_flood,
        floods.settings_flood,
        floods.empty_frames,
        floods.unread_pings,
        floods.unread_answers,
        floods.idle_connections,
    )
}

TOKENLESS = ("no-token", "wrong-tokens")  # attacks whose every call is refused for its token


def run(name: str, address: Address) -> Counter[str]:
    """Run an attack; how its calls or connections ended."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return asyncio.run(ATTACKS[name](address))


def tokens_checked(outcome: Counter[str], *, behind_edge: bool) -> bool:
    """Whether every call was refused for its token or, `behind_edge`, as too large for the edge's memory."""
    return bool(outcome) and all(
        end == "UNAUTHENTICATED" or (behind_edge and end.startswith("RST_STREAM")) for end in outcome
    )
