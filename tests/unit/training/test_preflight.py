"""What would keep a run from publishing is found before its first epoch, and finding it leaves nothing."""

import errno
from pathlib import Path

import pytest

from tests.support.disk import deny
from training.errors import CannotWrite
from training.preflight import check_folders
from training.settings import Settings


def settings(folder: Path, **values: object) -> Settings:
    """Settings that publish and write runs below the folder."""
    places = {"repository": folder / "models", "runs_dir": folder / "runs"}
    return Settings(_cli_parse_args=[], **places | values)  # type: ignore[arg-type, call-arg]


@pytest.mark.parametrize("exists", [False, True])
def test_folders_that_can_be_written_are_neither_made_nor_changed(tmp_path: Path, exists: bool) -> None:
    if exists:
        (tmp_path / "models" / "mnist-simplecnn").mkdir(parents=True)
    before = sorted(tmp_path.rglob("*"))
    check_folders(settings(tmp_path))
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("name", "flag"),
    [
        ("models", "--repository"),
        ("models/mnist-simplecnn", "--repository"),
        ("models/mnist-simplecnn-int8", "--repository"),
        ("runs", "--runs-dir"),
    ],
)
@pytest.mark.parametrize("kind", ["a file", "a link to nothing", "read-only", "unreadable"])
def test_a_folder_that_cannot_be_written_is_named_with_the_flag_that_chooses_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, flag: str, kind: str
) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    match kind:
        case "a file":
            path.write_text("")
        case "a link to nothing":
            path.symlink_to("nothing")
        case _:
            path.mkdir()
            deny(monkeypatch, path, error=errno.EROFS if kind == "read-only" else errno.EACCES)
    with pytest.raises(CannotWrite, match=f"^cannot write: {path}.*; choose another {flag}$"):
        check_folders(settings(tmp_path, quantize="int8"))


def test_a_folder_below_one_that_may_not_be_entered_is_not_taken_for_a_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "lstat", refuse)
    with pytest.raises(CannotWrite, match="Permission denied"):
        check_folders(settings(tmp_path))


def test_a_resumed_run_writes_into_its_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "runs").write_text("no folder any more")
    check_folders(settings(tmp_path, resume=tmp_path / "run"))
    deny(monkeypatch, tmp_path / "run", error=errno.EROFS)
    with pytest.raises(CannotWrite, match=f"^cannot write: {tmp_path}/run: Read-only file system"):
        check_folders(settings(tmp_path, resume=tmp_path / "run"))
