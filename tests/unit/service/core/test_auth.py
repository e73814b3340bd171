"""Tokens: who may call, and who may control, on both grpc_servers."""

import hashlib
from pathlib import Path

import pytest

from service.core.auth import BadTokensFile, read_tokens_file
from service.core.errors import PermissionDenied, Unauthenticated

CALLER, OPERATOR, FORMER = "caller-token", "operator-token", "former-token"


def line(token: str, rights: str, until: str = "") -> str:
    return f"{hashlib.sha256(token.encode()).hexdigest()}  {rights}  {until}\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "credentials"
    path.write_text(
        "# who may call\n\n"
        + line(CALLER, "infer", "2999-12-31")
        + line(OPERATOR, "infer,control")
        + line(FORMER, "infer,control", "2020-01-01")
    )
    return path


def test_rights_are_judged_one_by_one(file: Path) -> None:
    credentials = read_tokens_file(file)
    credentials.check(f"Bearer {OPERATOR}".encode(), "control")
    with pytest.raises(PermissionDenied):
        credentials.check(f"Bearer {CALLER}", "control")
    with pytest.raises(Unauthenticated):
        credentials.check(b"Bearer \xff\xfe", "infer")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "has no credentials"),
        ("# nobody\n", "has no credentials"),
        (CALLER, ":1: expected a SHA-256"),
        (line(CALLER, "infer") + line(OPERATOR, "infer,everything"), ":2: expected rights of infer, control"),
        (line(CALLER, "infer", "2027-02-30"), "2027-02-30 is no day"),
    ],
)
def test_a_file_that_makes_no_sense_is_refused_by_place(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "credentials").write_text(text)
    with pytest.raises(BadTokensFile, match=says):
        read_tokens_file(tmp_path / "credentials")
