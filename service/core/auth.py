r"""Authentication and authorization by bearer token. The service stores only the hashes of tokens.

The tokens file (`--tokens-file`) has one line a token: its SHA-256, its rights and, optionally, its expiry date (UTC):

    # of: openssl rand -hex 32 | tee token | tr -d '\n' | sha256sum
    9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08  infer          2027-06-30
    60303ae22b998861bce3b28f33eec1be758a213c86c93c076dbe9f558c11c752  infer,control
    2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae  infer:mnist-simplecnn

`infer` and `control` cover every model; `infer:NAME` and `control:NAME` cover one. NAME has no comma and no space.

Owns reading the file, checking a call's token, and what a right covers. Not here: reading the metadata of a call
(transport/), which method needs which right (transport/grpc/rights.py), when the file is read again
(app/credentials.py).
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
LINE = re.compile(r"(?P<digest>[0-9a-f]{64})\s+(?P<rights>\S+)(?:\s+(?P<expiry>\d{4}-\d{2}-\d{2}))?")
# A comment begins a line or follows a space: a model's name may have a number sign.
COMMENT = re.compile(r"(^|\s)#.*")


class BadTokensFile(Exception):
    """The tokens file cannot be used; the message says where and why."""


@dataclass(frozen=True)
class Access:
    """What a caller may do: rights such as `infer`, for every model, or `infer:mnist-simplecnn`, for one."""

    rights: frozenset[str]

    def covers(self, right: str, model: str) -> bool:
        """Whether the right is there, for this model."""
        return right in self.rights or f"{right}:{model}" in self.rights

    def check(self, right: str, model: str) -> None:
        """Check the right for a model; with "", for every model.

        Raises:
            PermissionDenied: the right is missing.
        """
        if not self.covers(right, model):
            raise PermissionDenied(f"{right}:{model}" if model else right)


# Of every caller, where there are no tokens.
FULL_ACCESS = Access(frozenset(RIGHTS))


@dataclass(frozen=True)
class _Token:
    access: Access
    kinds: frozenset[str]  # the rights that it has for at least one model
    expires: float  # seconds since the epoch; infinity for never


class Tokens:
    """The tokens of a tokens file."""

    def __init__(self, by_digest: Mapping[bytes, _Token]) -> None:
        self._by_digest = by_digest

    def __len__(self) -> int:
        return len(self._by_digest)

    def replace(self, tokens: "Tokens") -> None:
        """Accept these tokens from now on, and no others."""
        self._by_digest = tokens._by_digest

    def check(self, authorization: str | bytes | None, right: str) -> Access:
        """Check the token in a call's `authorization` metadata for a right, and return its access.

        Raises:
            Unauthenticated: the token is missing, unknown or expired.
            PermissionDenied: the token lacks the right for every model.
        """
        text = authorization.decode(errors="replace") if isinstance(authorization, bytes) else authorization or ""
        # Looked up by hash, so that response times do not reveal how much of a guessed token is right.
        digest = hashlib.sha256(text.removeprefix(SCHEME).encode()).digest()
        token = self._by_digest.get(digest) if text.startswith(SCHEME) else None
        if token is None or time.time() >= token.expires:
            raise Unauthenticated
        if right not in token.kinds:
            raise PermissionDenied(right)
        return token.access


def read_tokens_file(path: Path) -> Tokens:
    """Read a tokens file.

    Raises:
        BadTokensFile: the file cannot be read, holds no tokens, or has an invalid line.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")  # -sig: some editors write a byte order mark
    except (OSError, UnicodeDecodeError) as error:
        raise BadTokensFile(f"{path} cannot be read: {error}") from error
    by_digest = {}
    for number, line in enumerate(lines, start=1):
        text = COMMENT.sub("", line).strip()
        if text:
            digest, token = _read_line(f"{path}:{number}", text)
            by_digest[digest] = token
    if not by_digest:
        raise BadTokensFile(
            f"{path} holds no tokens, so nobody could call; a line is a SHA-256, rights and, optionally, an expiry date"
        )
    return Tokens(by_digest)


def _read_line(place: str, text: str) -> tuple[bytes, _Token]:
    match = LINE.fullmatch(text)
    if match is None:
        raise BadTokensFile(
            f"{place}: expected a SHA-256 in hexadecimal, rights and, optionally, an expiry date such as 2027-06-30"
        )
    rights = match["rights"].split(",")
    kinds = frozenset(right.partition(":")[0] for right in rights)
    if kinds - set(RIGHTS) or any(right.endswith(":") and right[:-1] in RIGHTS for right in rights):
        raise BadTokensFile(
            f"{place}: expected rights from {', '.join(RIGHTS)}, each for all models or for one as in infer:NAME, "
            f"got {', '.join(sorted(rights))}"
        )
    try:
        expires = (
            datetime.fromisoformat(match["expiry"]).replace(tzinfo=UTC).timestamp() if match["expiry"] else float("inf")
        )
    except ValueError as error:
        raise BadTokensFile(f"{place}: {match['expiry']} is not a date") from error
    return bytes.fromhex(match["digest"]), _Token(Access(frozenset(rights)), kinds, expires)
