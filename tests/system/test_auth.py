"""Tokens: who may call, and who may control, on both grpc_servers."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.local_service import LocalService, local_service
from tests.support.processes import run_command

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


@pytest.fixture
def service(toys: Path, grpc_server: str, file: Path) -> Iterator[LocalService]:
    with local_service(toys, grpc_server, tokens_file=file, enable_model_control=True) as service:
        yield service


def test_a_missing_file_is_one_line_and_status_2(toys: Path, tmp_path: Path) -> None:
    result = run_command("service", "--model-repository", str(toys), "--tokens-file", str(tmp_path / "none"))
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert "--tokens-file" in line and "cannot be read" in line
