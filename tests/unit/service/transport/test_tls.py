"""Reading the certificate, its key and the CA of callers, and the reasons to refuse them."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from service.transport.tls import BadTlsFile, ServerTls, TlsFiles
from tests.support.certificates import Authority


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "authority")


@pytest.fixture
def files(authority: Authority) -> TlsFiles:
    return TlsFiles(*authority.issue("server", "DNS:localhost", usage="serverAuth"), client_ca=authority.ca)


def test_a_certificate_with_its_key_and_a_ca_is_taken_without_doubt(files: TlsFiles) -> None:
    assert ServerTls(files).doubt == ""
    assert ServerTls(TlsFiles(files.certificate, files.key)).doubt == ""


def test_comments_between_certificates_are_passed_over(files: TlsFiles, authority: Authority) -> None:
    files.certificate.write_bytes("Zürich\n".encode() + files.certificate.read_bytes() + authority.ca.read_bytes())
    assert ServerTls(files).doubt == ""


def remove(path: Path) -> None:
    path.unlink()


def empty(path: Path) -> None:
    path.write_bytes(b"")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


@pytest.mark.parametrize("name", ["certificate", "key", "client_ca"])
@pytest.mark.parametrize(
    ("damage", "reason"), [(remove, "No such file"), (empty, " in PEM form"), (cut, " in PEM form")]
)
def test_a_damaged_file_is_refused_by_the_name_of_its_flag(
    files: TlsFiles, name: str, damage: Callable[[Path], None], reason: str
) -> None:
    damage(getattr(files, name))
    with pytest.raises(BadTlsFile, match=f"^--tls-{name.replace('_', '-')} .*{reason}"):
        ServerTls(files)


def test_the_key_of_another_certificate_is_refused(files: TlsFiles, authority: Authority) -> None:
    _, other = authority.issue("other")
    with pytest.raises(BadTlsFile, match=f"{other} is not the key of the certificate {files.certificate}"):
        ServerTls(TlsFiles(files.certificate, other))


def test_a_key_with_a_passphrase_is_refused_and_nobody_is_asked_for_it(files: TlsFiles) -> None:
    encrypted = files.key.with_name("encrypted.key")
    command = ["/usr/bin/env", "openssl", "pkcs8", "-topk8", "-in", str(files.key), "-passout", "pass:secret"]
    subprocess.run([*command, "-out", str(encrypted)], check=True, capture_output=True)
    with pytest.raises(BadTlsFile, match="needs a passphrase"):
        ServerTls(TlsFiles(files.certificate, encrypted))


def test_an_expired_certificate_is_a_doubt_and_no_error(files: TlsFiles) -> None:
    expired = files.certificate.with_name("expired.crt")
    command = ["/usr/bin/env", "openssl", "x509", "-in", str(files.certificate), "-signkey", str(files.key)]
    subprocess.run([*command, "-days", "-1", "-out", str(expired)], check=True, capture_output=True)
    assert ServerTls(TlsFiles(expired, files.key)).doubt == "certificate has expired"


def test_a_certificate_for_clients_alone_is_a_doubt(authority: Authority) -> None:
    assert "purpose" in ServerTls(TlsFiles(*authority.issue("caller", usage="clientAuth"))).doubt


def test_files_that_became_invalid_leave_what_was_read_before(files: TlsFiles) -> None:
    tls = ServerTls(files)
    context = tls.context
    cut(files.certificate)
    with pytest.raises(BadTlsFile):
        tls.read_again()
    assert tls.context is context
