"""A version's fingerprint changes with its content, and with nothing else; a file is read once."""

import errno
import hashlib
import io
import os
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from service.models.repository.config import read_config
from service.models.repository.fingerprint import SETTLED_NS, Fingerprint, HashedFile, fingerprint
from service.models.repository.scan import read_model_folder
from service.models.repository.version_files import open_file
from tests.support.disk import deny

CONFIG = 'max_batch_size: 8 output { name: "y" label_filename: "labels.txt" data_type: TYPE_FP32 dims: [ 4 ] }'


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model with version 1 of two files, and labels."""
    folder = tmp_path / "models" / "double"
    (folder / "1" / "weights").mkdir(parents=True)
    (folder / "1" / "model.onnx").write_bytes(b"graph")
    (folder / "1" / "weights" / "part").write_bytes(b"weights")
    (folder / "labels.txt").write_text("cat\ndog\n")
    (folder / "config.pbtxt").write_text(CONFIG)
    return folder


def take(model: Path, known: Mapping[str, HashedFile] | None = None, *, later: int = 2 * SETTLED_NS) -> Fingerprint:
    """The fingerprint of version 1, taken `later` nanoseconds from now."""
    folder = read_model_folder(model)
    return fingerprint(folder, 1, read_config(folder), known or {}, now=lambda: time.time_ns() + later)


def same_size_and_time(model: Path) -> None:
    """An edit in place that keeps the size and restores the time of modification, as rsync --inplace --times."""
    path = model / "1" / "model.onnx"
    before = path.stat()
    path.write_bytes(b"GRAPH")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def replace_by_copy(model: Path) -> None:
    """What publishing does: write beside, then rename."""
    shutil.copy(model / "config.pbtxt", model / "config.pbtxt.tmp")
    (model / "config.pbtxt.tmp").rename(model / "config.pbtxt")
    shutil.copytree(model / "1", model / "2")


@pytest.mark.parametrize(
    "change",
    [
        lambda model: os.utime(model / "1" / "model.onnx", (0, 0)),
        lambda model: os.utime(model / "labels.txt", (0, 0)),
        lambda model: (model / "1" / "model.onnx").chmod(0o600),
        lambda model: (model / "config.pbtxt").write_text("# a comment\n" + CONFIG),
        lambda model: (model / "config.pbtxt").write_text(CONFIG + " version_policy { all { } }"),
        lambda model: (model / "config.pbtxt").write_text(
            CONFIG + ' parameters { key: "stable" value { string_value: "1" } }'
        ),
        lambda model: (model / "notes.txt").write_text("beside the versions"),
        replace_by_copy,
    ],
)
def test_what_changes_no_content_changes_no_fingerprint(model: Path, change: Callable[[Path], object]) -> None:
    before = take(model)
    change(model)
    assert take(model, before.files).digest == before.digest


@pytest.mark.parametrize(
    "change",
    [
        same_size_and_time,
        lambda model: (model / "1" / "weights" / "part").write_bytes(b"other"),
        lambda model: (model / "1" / "weights" / "part").rename(model / "1" / "part"),
        lambda model: (model / "1" / "extra").write_bytes(b""),
        lambda model: (model / "1" / "model.onnx").unlink(),
        lambda model: (model / "labels.txt").write_text("dog\ncat\n"),
        lambda model: (model / "config.pbtxt").write_text(CONFIG.replace("8", "4")),
        lambda model: shutil.rmtree(model / "1"),
    ],
)
def test_what_changes_content_changes_the_fingerprint(model: Path, change: Callable[[Path], object]) -> None:
    before = take(model)
    change(model)
    assert take(model, before.files).digest != before.digest


def test_a_copy_of_a_model_under_another_path_has_the_same_fingerprint(model: Path, tmp_path: Path) -> None:
    shutil.copytree(model, tmp_path / "copy" / "double")
    assert take(tmp_path / "copy" / "double").digest == take(model).digest


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are read."""
    names: list[str] = []

    def record(path: Path) -> AbstractContextManager[io.BufferedReader]:
        names.append(path.name)
        return open_file(path)

    monkeypatch.setattr("service.models.repository.fingerprint.open_file", record)
    return names


def test_only_files_whose_status_changed_are_read_again(model: Path, read: list[str]) -> None:
    first = take(model)
    assert sorted(read) == ["labels.txt", "model.onnx", "part"]
    read.clear()
    again = take(model, first.files)
    assert read == [] and again == first
    os.utime(model / "1" / "model.onnx", (0, 0))
    again = take(model, first.files)
    assert read == ["model.onnx"] and take(model, again.files) == again and read == ["model.onnx"]


def test_a_file_that_just_changed_is_read_again_since_another_change_may_show_the_same_time(
    model: Path, read: list[str]
) -> None:
    first = take(model, later=0)
    read.clear()
    second = take(model, first.files)
    assert "model.onnx" in read and second.digest == first.digest
    read.clear()
    take(model, second.files)
    assert read == []


def test_a_file_that_changes_while_it_is_hashed_is_read_again(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = hashlib.file_digest

    def grow(file: io.BufferedReader, name: str) -> object:
        with (model / "1" / "model.onnx").open("ab") as other:
            other.write(b"!")
        return digest(file, name)

    with monkeypatch.context() as patch:
        patch.setattr(hashlib, "file_digest", grow)
        first = take(model)
    assert first.files["model.onnx"].status is None


def test_an_unreadable_file_is_part_of_the_fingerprint_and_read_once_it_can_be(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    readable = take(model)
    with monkeypatch.context() as patch:
        deny(patch, model / "1" / "weights", error=errno.EIO)
        unreadable = take(model)
        assert unreadable.digest != readable.digest
    assert take(model, unreadable.files).digest == readable.digest


def test_what_is_no_file_neither_blocks_nor_is_followed(model: Path, tmp_path: Path) -> None:
    os.mkfifo(model / "1" / "pipe")
    (model / "1" / "loop").symlink_to(model / "1" / "loop")
    (model / "1" / "gone").symlink_to(tmp_path / "nothing")
    (model / "1" / "everything").symlink_to("/")
    files = take(model).files
    assert files["everything"].digest == "folder '/'"
    assert files["gone"].digest == "FileNotFoundError" and not any(name.startswith("everything/") for name in files)


def test_the_content_behind_a_link_to_a_file_counts(model: Path, tmp_path: Path) -> None:
    """As in the cache of the Hugging Face hub, whose files are links."""
    (tmp_path / "blob").write_bytes(b"one")
    (model / "1" / "model.onnx").unlink()
    (model / "1" / "model.onnx").symlink_to(tmp_path / "blob")
    before = take(model)
    (tmp_path / "blob").write_bytes(b"two")
    assert take(model, before.files).digest != before.digest


def test_the_content_behind_the_text_of_a_link_counts(model: Path) -> None:
    (model / "blob").write_bytes(b"graph")
    (model / "1" / "model.onnx").write_text("../blob")
    before = take(model).digest
    (model / "blob").write_bytes(b"other")
    assert take(model).digest != before
