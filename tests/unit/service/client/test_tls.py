"""The files of a client's TLS, and what is said of those that cannot be used."""

import re
import subprocess
from pathlib import Path

import pytest

from service.client import tls as module
from service.client.tls import Tls
from tests.support.certificates import Authority


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def pair(authority: Authority) -> tuple[Path, Path]:
    return authority.issue("caller")


def test_files_that_belong_together_are_taken(authority: Authority, pair: tuple[Path, Path]) -> None:
    assert Tls(ca=authority.ca, certificate=str(pair[0]), key=str(pair[1])).credentials()
    assert Tls(ca=str(pair[0])).credentials()


def test_a_missing_file_is_named(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    for files in (
        {"ca": "none.crt"},
        {"certificate": "none.crt", "key": pair[1]},
        {"certificate": pair[0], "key": "none"},
    ):
        with pytest.raises(FileNotFoundError, match="none"):
            Tls(**files).credentials()


def test_a_key_and_a_certificate_go_together(pair: tuple[Path, Path]) -> None:
    with pytest.raises(ValueError, match="a client's key needs its certificate"):
        Tls(key=pair[1]).credentials()
    with pytest.raises(ValueError, match="a client's certificate needs its key"):
        Tls(certificate=pair[0]).credentials()


@pytest.mark.parametrize("content", [b"", b"text", b"\x30\x82\xff", b"-----BEGIN CERTIFICATE-----\nAAAA\n"])
def test_a_file_without_certificates_is_named(tmp_path: Path, content: bytes, pair: tuple[Path, Path]) -> None:
    (tmp_path / "bad").write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(f"{tmp_path / 'bad'}: no certificates in PEM")):
        Tls(ca=tmp_path / "bad").credentials()
    with pytest.raises(ValueError, match=str(tmp_path / "bad")):
        Tls(certificate=tmp_path / "bad", key=pair[1]).credentials()
    with pytest.raises(ValueError, match=re.escape(f"{tmp_path / 'bad'}: no private key in PEM")):
        Tls(certificate=pair[0], key=tmp_path / "bad").credentials()


def test_swapped_files_are_said_to_be_wrong(pair: tuple[Path, Path]) -> None:
    with pytest.raises(ValueError, match=f"{pair[1]}: no certificate in PEM"):
        Tls(certificate=pair[1], key=pair[0]).credentials()


def test_the_key_of_another_certificate_is_refused(authority: Authority, pair: tuple[Path, Path]) -> None:
    _, other = authority.issue("other")
    with pytest.raises(ValueError, match=re.escape(f"{other}: not the key of {pair[0]}")):
        Tls(certificate=pair[0], key=other).credentials()


def test_an_encrypted_key_is_refused_without_asking_for_its_password(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    encrypted = tmp_path / "encrypted.key"
    command = ["/usr/bin/env", "openssl", "pkcs8", "-topk8", "-passout", "pass:x", "-in", str(pair[1]), "-out"]
    subprocess.run([*command, str(encrypted)], check=True)
    with pytest.raises(ValueError, match="encrypted with a password"):
        Tls(certificate=pair[0], key=encrypted).credentials()


def test_the_systems_authorities_are_trusted_unless_others_are_named(
    authority: Authority, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", raising=False)
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.ca))
    assert module._system_roots() == authority.ca.read_bytes()
    monkeypatch.setenv("SSL_CERT_FILE", "/none")
    monkeypatch.setattr(module, "ROOT_FILES", ("/none", str(authority.ca)))
    monkeypatch.setattr("ssl.get_default_verify_paths", lambda: type("Paths", (), {"cafile": None}))
    assert module._system_roots() == authority.ca.read_bytes()
    monkeypatch.setattr(module, "ROOT_FILES", ())
    assert module._system_roots() is None
    monkeypatch.setenv("GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", "theirs")
    assert module._system_roots() is None
