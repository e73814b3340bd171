"""Which server, TLS and token the command takes from its flags and environment."""

# ruff: noqa: S105, S106 - words that stand for tokens

import argparse
import os
import warnings
from pathlib import Path
from typing import Any

import pytest

from service.client import Tls, connection

Run = Any


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    """Parses the flags in this environment, and returns what `Client` is given."""
    for name in [name for name in os.environ if name.startswith("CNN_")]:
        monkeypatch.delenv(name)
    given: dict[str, Any] = {}

    def client(url: str, **options: Any) -> None:
        given.update(options, url=url)
        if "example" in url:
            warnings.warn("in the clear", stacklevel=1)

    monkeypatch.setattr(connection, "Client", client)

    def run(*arguments: str, **environment: str) -> dict[str, Any]:
        with monkeypatch.context() as patch:
            for name, value in environment.items():
                patch.setenv(name, value)
            parser = argparse.ArgumentParser()
            connection.add_connection_flags(parser)
            connection.connect(parser, parser.parse_args(arguments))
        return given

    return run


def test_nothing_given_is_a_plain_call_to_this_machine(run: Run) -> None:
    assert run() == {"url": "127.0.0.1:8001", "timeout": 10.0, "token": "", "tls": None}
    empty = dict.fromkeys(("CNN_URL", "CNN_TOKEN", "CNN_TOKEN_FILE", "CNN_TLS", "CNN_TLS_CA", "CNN_TLS_KEY"), "")
    assert run(**empty) == {"url": "127.0.0.1:8001", "timeout": 10.0, "token": "", "tls": None}


def test_a_flag_counts_more_than_its_variable(run: Run, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("from a file\n")
    file = str(tmp_path / "token")
    assert run(CNN_URL="a:1")["url"] == "a:1"
    assert run("--url", "b:1", CNN_URL="a:1")["url"] == "b:1"
    assert run(CNN_TOKEN="variable")["token"] == "variable"
    assert run(CNN_TOKEN_FILE=file)["token"] == "from a file"
    assert run("--token", "flag", CNN_TOKEN_FILE=file)["token"] == "flag"
    assert run("--token-file", file, CNN_TOKEN="variable")["token"] == "from a file"
    assert run("--tls-ca", "b.crt", CNN_TLS_CA="a.crt")["tls"].ca == "b.crt"


def test_each_tls_flag_and_variable_turns_tls_on(run: Run) -> None:
    off = Tls("", "", "", "")
    assert run("--tls")["tls"] == run(CNN_TLS="1")["tls"] == run(CNN_TLS="True")["tls"] == off
    assert run("--tls-ca", "f")["tls"] == run(CNN_TLS_CA="f")["tls"] == Tls("f", "", "", "")
    assert run("--tls-server-name", "n")["tls"] == run(CNN_TLS_SERVER_NAME="n")["tls"] == Tls("", "", "", "n")
    pair = Tls("", "c", "k", "")
    assert run("--tls-certificate", "c", "--tls-key", "k")["tls"] == pair
    assert run(CNN_TLS_CERTIFICATE="c", CNN_TLS_KEY="k")["tls"] == pair
    assert run(CNN_TLS="0")["tls"] is None


@pytest.mark.parametrize(
    ("arguments", "environment", "reason"),
    [
        (["--tls-key", "k"], {}, "--tls-certificate and --tls-key go together"),
        (["--tls-certificate", "c"], {}, "--tls-certificate and --tls-key go together"),
        (["--token", "a", "--token-file", "b"], {}, "not allowed with"),
        ([], {"CNN_TOKEN": "a", "CNN_TOKEN_FILE": "b"}, "CNN_TOKEN and CNN_TOKEN_FILE: set one of them"),
        ([], {"CNN_TLS": "maybe"}, "CNN_TLS: expected 1 or 0"),
        (["--url", "https://example.com:1"], {}, "--url: 'https://example.com:1': an address is HOST:PORT"),
    ],
)
def test_wrong_usage_is_said_and_ends_with_status_2(
    run: Run, arguments: list[str], environment: dict[str, str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        run(*arguments, **environment)
    assert ended.value.code == 2 and reason in capsys.readouterr().err


def test_an_empty_token_file_is_an_error(run: Run, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("\n")
    with pytest.raises(ValueError, match="token: no token"):
        run("--token-file", str(tmp_path / "token"))


def test_a_warning_is_one_line(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    run("--url", "example.com:1")
    assert capsys.readouterr().err == "warning: in the clear\n"


def test_the_help_prints_no_token(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run("--help", CNN_TOKEN="secret-of-the-environment")
    output = capsys.readouterr().out
    assert "CNN_TOKEN" in output and "secret-of-the-environment" not in output
