r"""Who may call what: bearer tokens, known by their hashes only.

A file has a line for each: the SHA-256 of the token, its rights, and the day it ends, which may be left out:

    # of: openssl rand -hex 32 | tee token | tr -d '\n' | sha256sum
    9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08  infer          2027-06-30
    60303ae22b998861bce3b28f33eec1be758a213c86c93c076dbe9f558c11c752  infer,control

Owns reading it and judging a call by it. Does not own: where tokens come from on the wire (the fronts).
"""

import hashlib
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from service.core.errors import PermissionDenied, Unauthenticated

INFER, CONTROL = "infer", "control"
RIGHTS = (INFER, CONTROL)
# The metadata key that carries "Bearer TOKEN" (https://datatracker.ietf.org/doc/html/rfc6750).
AUTHORIZATION, SCHEME = "authorization", "Bearer "
LINE = re.compile(r"(?P<digest>[0-9a-f]{64})\s+(?P<rights>[a-z]+(?:,[a-z]+)*)(?:\s+(?P<until>\d{4}-\d{2}-\d{2}))?")


class BadTokensFile(Exception):
    """The file cannot be used; the message says where and why."""


@dataclass(frozen=True)
class _Token:
    rights: frozenset[str]
    ends: float  # seconds since the epoch


class Tokens:
    """The credentials of a file."""

    def __init__(self, known: Mapping[bytes, _Token]) -> None:
        self._known = known

    def check(self, authorization: str | bytes | None, right: str) -> None:
        """Judge a call by the value of its `authorization` metadata.

        Raises:
            Unauthenticated: there is none, or it is unknown or has ended.
            PermissionDenied: it is not for calls that need this right.
        """
        text = authorization.decode(errors="replace") if isinstance(authorization, bytes) else authorization or ""
        # Looked up by its hash, whose comparison tells nobody how much of a guess was right.
        digest = hashlib.sha256(text.removeprefix(SCHEME).encode()).digest()
        credential = self._known.get(digest) if text.startswith(SCHEME) else None
        if credential is None or time.time() >= credential.ends:
            raise Unauthenticated
        if right not in credential.rights:
            raise PermissionDenied(right)


def read_tokens_file(path: Path) -> Tokens:
    """The credentials in the file.

    Raises:
        BadTokensFile: it cannot be read, is empty, or a line makes no sense.
    """
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadTokensFile(f"{path} cannot be read: {error}") from error
    known = {}
    for number, line in enumerate(lines, start=1):
        text = line.split("#")[0].strip()
        if text:
            digest, credential = _read_line(f"{path}:{number}", text)
            known[digest] = credential
    if not known:
        raise BadTokensFile(f"{path} has no credentials, so that nobody could call; a line is SHA-256, rights, end")
    return Tokens(known)


def _read_line(place: str, text: str) -> tuple[bytes, _Token]:
    match = LINE.fullmatch(text)
    if match is None:
        raise BadTokensFile(f"{place}: expected a SHA-256 in hexadecimal, rights and perhaps a day such as 2027-06-30")
    rights = frozenset(match["rights"].split(","))
    if rights - set(RIGHTS):
        raise BadTokensFile(f"{place}: expected rights of {', '.join(RIGHTS)}, got {', '.join(sorted(rights))}")
    try:
        ends = (
            datetime.fromisoformat(match["until"]).replace(tzinfo=UTC).timestamp() if match["until"] else float("inf")
        )
    except ValueError as error:
        raise BadTokensFile(f"{place}: {match['until']} is no day") from error
    return bytes.fromhex(match["digest"]), _Token(rights, ends)
