"""When files of credentials count as changed, and what is logged about them."""

from pathlib import Path

import pytest
from structlog.testing import capture_logs

from service.app.credentials import Credentials, WatchedFiles
from service.app.startup import CannotStart
from service.core.errors import Unauthenticated
from tests.support.certificates import Authority
from tests.support.local_service import make_settings
from tests.support.tokens import CALLER, OPERATOR, token_line


class Counted(WatchedFiles):
    """Counts the changes that are acted on."""

    def __init__(self, *paths: Path) -> None:
        self.changes = 0
        super().__init__(paths, self._count)

    def _count(self) -> None:
        self.changes += 1

    def settle(self) -> int:
        """The changes after looks at files that stay the same from now on."""
        for _ in range(3):
            self.look()
        return self.changes


def test_a_change_counts_once_the_files_stay_the_same(tmp_path: Path) -> None:
    certificate, key = tmp_path / "tls.crt", tmp_path / "tls.key"
    certificate.write_text("old")
    key.write_text("old")
    files = Counted(certificate, key)
    assert files.settle() == 0
    certificate.write_text("half")
    files.look()
    certificate.write_text("newer")
    files.look()
    key.write_text("newer")
    files.look()
    assert files.changes == 0
    files.look()
    assert files.changes == 1
    assert files.settle() == 1


def test_a_swap_of_the_link_behind_the_name_is_a_change(tmp_path: Path) -> None:
    """As Kubernetes swaps a secret: tokens → ..data/tokens, and ..data → a folder with a time in its name."""
    for folder in ("..1", "..2"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "tokens").write_text("same size")
    (tmp_path / "..data").symlink_to("..1")
    (tmp_path / "tokens").symlink_to("..data/tokens")
    files = Counted(tmp_path / "tokens")
    (tmp_path / "..data_tmp").symlink_to("..2")
    (tmp_path / "..data_tmp").rename(tmp_path / "..data")
    assert files.settle() == 1


def test_a_file_that_goes_and_comes_back_is_two_changes(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    path.write_text("here")
    files = Counted(path)
    path.rename(tmp_path / "elsewhere")
    assert files.settle() == 1
    path.write_text("back")
    assert files.settle() == 2


def test_an_invalid_tokens_file_keeps_the_old_tokens_and_is_logged_once_with_its_line(tokens_file: Path) -> None:
    credentials = Credentials(make_settings(tokens_file=tokens_file))
    assert credentials.tokens
    with capture_logs() as lines:
        tokens_file.write_text(token_line(OPERATOR, "infer") + "nonsense\n")
        for _ in range(5):
            credentials.look()
        credentials.tokens.check(f"Bearer {CALLER}", "infer")
        tokens_file.write_text(token_line(OPERATOR, "infer"))
        for _ in range(5):
            credentials.look()
    assert [line["event"] for line in lines] == [
        "tokens file invalid, keeping the old tokens",
        "tokens file read again",
    ]
    assert f"{tokens_file}:2: expected a SHA-256" in lines[0]["reason"] and lines[1]["tokens"] == 1
    credentials.tokens.check(f"Bearer {OPERATOR}", "infer")
    with pytest.raises(Unauthenticated):
        credentials.tokens.check(f"Bearer {CALLER}", "infer")


def test_an_invalid_certificate_keeps_the_old_one_and_is_logged_once(tmp_path: Path) -> None:
    certificate, key = Authority(tmp_path / "authority").issue("server")
    credentials = Credentials(make_settings(tls_certificate=certificate, tls_key=key))
    assert credentials.tls
    before, valid = credentials.tls.context, certificate.read_bytes()
    with capture_logs() as lines:
        certificate.write_text("nonsense")
        for _ in range(5):
            credentials.look()
        assert credentials.tls.context is before
        certificate.write_bytes(valid)
        for _ in range(5):
            credentials.look()
    assert [line["event"] for line in lines] == ["certificate invalid, keeping the old one", "certificate read again"]
    assert f"--tls-certificate {certificate}" in lines[0]["reason"]
    assert credentials.tls.context is not before


def test_an_unexpected_error_leaves_the_thread_to_look_at_the_other_files(
    tokens_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    credentials = Credentials(make_settings(tokens_file=tokens_file))
    monkeypatch.setattr(WatchedFiles, "look", lambda _: 1 / 0)
    with capture_logs() as lines:
        credentials.look()
    assert [line["event"] for line in lines] == ["credential files not read"]


def test_without_files_there_is_nothing_to_watch() -> None:
    credentials = Credentials(make_settings())
    credentials.watch()
    credentials.close()
    assert credentials.tokens is None and credentials.tls is None


def test_an_invalid_file_at_the_start_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CannotStart, match=r"--tokens-file .* cannot be read"):
        Credentials(make_settings(tokens_file=tmp_path / "none"))
    with pytest.raises(CannotStart, match=r"--tls-certificate .* cannot be read"):
        Credentials(make_settings(tls_certificate=tmp_path / "none", tls_key=tmp_path / "none"))
