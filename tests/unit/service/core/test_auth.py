"""Reading a tokens file, and checking a token for a right."""

import hashlib
from pathlib import Path

import pytest

from service.core.auth import BadTokensFile, read_tokens_file
from service.core.errors import PermissionDenied, Unauthenticated

CALLER, OPERATOR, EXPIRED = "caller-token", "operator-token", "expired-token"


def line(token: str, rights: str, expiry: str = "") -> str:
    return f"{hashlib.sha256(token.encode()).hexdigest()}  {rights}  {expiry}\n"


@pytest.fixture
def tokens_file(tmp_path: Path) -> Path:
    path = tmp_path / "tokens"
    path.write_text(
        "# who may call\n\n"
        + line(CALLER, "infer", "2999-12-31")
        + line(OPERATOR, "infer,control")
        + line(EXPIRED, "infer,control", "2020-01-01")
    )
    return path


def test_a_token_grants_only_the_rights_on_its_line(tokens_file: Path) -> None:
    tokens = read_tokens_file(tokens_file)
    tokens.check(f"Bearer {OPERATOR}".encode(), "control")
    with pytest.raises(PermissionDenied):
        tokens.check(f"Bearer {CALLER}", "control")
    with pytest.raises(Unauthenticated):
        tokens.check(b"Bearer \xff\xfe", "infer")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no tokens"),
        ("# a comment\n", "holds no tokens"),
        (CALLER, ":1: expected a SHA-256"),
        (line(CALLER, "infer") + line(OPERATOR, "infer,everything"), ":2: expected rights from infer, control"),
        (line(CALLER, "infer", "2027-02-30"), "2027-02-30 is not a date"),
    ],
)
def test_an_invalid_tokens_file_is_refused_with_the_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "tokens").write_text(text)
    with pytest.raises(BadTokensFile, match=message):
        read_tokens_file(tmp_path / "tokens")
