"""What is a model in a repository, and that one entry's trouble hides no other entry."""

import errno
import os
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from service.core.load_errors import FilesError, FilesUnreadable
from service.models.repository.scan import find_model, read_model_folder, scan
from service.models.repository.version_files import printable_name
from tests.support.disk import deny


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """The model `good` with version 1."""
    (tmp_path / "good" / "1").mkdir(parents=True)
    return tmp_path


def make_socket(path: Path) -> None:
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as server:
        server.bind(f"{folder}/s")  # a socket's path is short
        Path(folder, "s").rename(path)


@pytest.mark.parametrize(
    ("name", "make", "reason"),
    [
        ("notes", lambda path: path.mkdir(), "it holds no version folder, such as notes/1, and no config.pbtxt"),
        ("old", lambda path: (path / "01").mkdir(parents=True), "no version folder"),
        ("flat", lambda path: (path.mkdir(), (path / "model.onnx").touch(), (path / "1").touch()), "no version folder"),
        ("README.md", lambda path: path.touch(), "it is not a folder"),
        ("pipe", os.mkfifo, "it is not a folder"),
        ("socket", make_socket, "it is not a folder"),
        (".git", lambda path: (path / "1").mkdir(parents=True), "it is hidden"),
        ("lost+found", lambda path: (path / "1").mkdir(parents=True), "it belongs to the file system"),
        ("__pycache__", lambda path: path.mkdir(), "it belongs to"),
        (os.fsdecode(b"\xe9t\xe9"), lambda path: path.mkdir(), "no version folder"),
    ],
)
def test_what_is_no_model_is_skipped_with_a_reason(
    repository: Path, name: str, make: Callable[[Path], object], reason: str
) -> None:
    make(repository / name)
    listing = scan(repository)
    assert [(folder.name, list(folder.versions)) for folder in listing.models] == [("good", [1])]
    assert listing.skipped.keys() == {printable_name(name)}
    assert reason in listing.skipped[printable_name(name)]


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (os.fsdecode(b"\xe9t\xe9"), r"\xe9t\xe9"),
        ("two\nlines", r"two\nlines"),
        ("bell\x07", r"bell\x07"),
        ("a\u2028b", r"a\u2028b"),
        (r"back\slash", r"back\\slash"),
    ],
)
def test_a_model_whose_name_cannot_be_sent_is_listed_with_an_escaped_name_and_the_problem(
    repository: Path, name: str, shown: str
) -> None:
    (repository / name / "1").mkdir(parents=True)
    listing = scan(repository)
    (folder,) = [folder for folder in listing.models if folder.name != "good"]
    assert folder.name == shown and "cannot be a model's name" in str(folder.problem)
    folder.name.encode()
    with pytest.raises(FilesError, match="cannot be a model's name"):
        read_model_folder(repository / name)


@pytest.mark.parametrize("name", ["café", "猫", "with space", "a.b+c@d", "👩‍🔬"])
def test_any_other_name_is_a_models_name(repository: Path, name: str) -> None:
    (repository / name / "1").mkdir(parents=True)
    assert [folder.problem for folder in scan(repository).models] == [None, None]
    assert find_model(repository, name) is not None


@pytest.mark.parametrize("code", [errno.EACCES, errno.EIO, errno.ESTALE, errno.ENOTCONN])
def test_a_folder_that_cannot_be_read_is_that_models_trouble(
    repository: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    (repository / "private").mkdir()
    deny(monkeypatch, repository / "private", error=code)
    good, private = scan(repository).models
    assert good.problem is None
    assert isinstance(private.problem, FilesUnreadable) and os.strerror(code) in str(private.problem)
    with pytest.raises(FilesUnreadable, match=os.strerror(code)):
        read_model_folder(repository / "private")


def test_links_that_lead_nowhere_are_listed_with_the_problem_and_other_links_are_followed(repository: Path) -> None:
    (repository / "gone").symlink_to(repository / "nothing")
    (repository / "loop").symlink_to(repository / "loop")
    (repository / "alias").symlink_to(repository / "good")
    models = {folder.name: folder for folder in scan(repository).models}
    assert models["alias"].versions == models["good"].versions == [1]
    assert "a link to nothing" in str(models["gone"].problem)
    assert isinstance(models["loop"].problem, FilesUnreadable)


def test_a_folder_that_vanishes_during_the_scan_is_skipped(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (repository / "brief").mkdir()
    deny(monkeypatch, repository / "brief", error=errno.ENOENT)
    listing = scan(repository)
    assert [folder.name for folder in listing.models] == ["good"]
    assert listing.skipped == {"brief": "it was removed during the scan"}


def test_versions_are_folders_with_a_plain_number_newest_first(repository: Path) -> None:
    for name in ("2", "10", "01", "0", "-1", "٣", "3.tmp"):
        (repository / "good" / name).mkdir()
    (repository / "good" / "4").touch()
    (repository / "good" / "5").symlink_to(repository / "good" / "1")
    (repository / "good" / "6").symlink_to(repository / "nothing")
    (folder,) = scan(repository).models
    assert folder.versions == [10, 6, 5, 2, 1], "loading version 6 will say that the link leads nowhere"


def test_a_folder_with_a_configuration_and_no_version_is_a_model(repository: Path) -> None:
    (repository / "new").mkdir()
    (repository / "new" / "config.pbtxt").touch()
    assert [(folder.name, list(folder.versions)) for folder in scan(repository).models] == [("good", [1]), ("new", [])]


def test_a_repository_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FilesUnreadable, match="nowhere cannot be read: No such file"):
        scan(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["../good", "good/1", ".", "", "absent"])
def test_a_name_that_is_not_an_entry_of_the_repository_is_not_found(repository: Path, name: str) -> None:
    assert find_model(repository, name) is None
