"""Reads the files of the model repository, which has Triton's layout.

    REPOSITORY/NAME/config.pbtxt     optional; omitted fields are derived from the graph
                    labels.txt       optional; an output's label_filename names it
                    N/model.onnx     with manifest.json and golden.npz if the training job published it

Owns the files of a version, and the errors that name an invalid file or one that cannot be read. Only regular files are
read: a pipe would block the reader. A version is a folder whose name is a positive number without leading zeros; other
names are ignored. Not here: which folders are models (scan.py), config.pbtxt (config.py), loading (loader.py).
"""

import errno
import hashlib
import io
import json
import os
import re
import stat
import unicodedata
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from service.core.errors import FilesError, FilesUnreadable, LoadError

PLATFORM, BACKEND, GRAPH, CONFIG = "onnxruntime_onnx", "onnxruntime", "model.onnx", "config.pbtxt"
# Unicode categories that a name cannot hold: control characters, line and paragraph separators.
UNNAMEABLE = ("Cc", "Zl", "Zp")
VERSION_NAME = re.compile(r"[1-9][0-9]{0,17}")


@dataclass(frozen=True)
class ModelFolder:
    """A model on disk: its version numbers, newest first, or the problem why it cannot be read or named."""

    path: Path
    versions: Sequence[int]
    problem: LoadError | None = None

    @property
    def name(self) -> str:
        """The model's name, which is the folder's name; see printable_name()."""
        return printable_name(self.path.name)

    def version_path(self, version: int) -> Path:
        """The folder of a version."""
        return self.path / str(version)


class Golden(BaseModel):
    """The manifest's tolerance: how far an answer may differ from its golden answer."""

    tolerance: float


class ReportedMetrics(BaseModel):
    """Test-set metrics that the training job reported: ratios from 0 to 1; image counts by true and predicted class."""

    test_accuracy: float | None = None
    test_confidence: float | None = None
    confusion: list[list[int]] = []

    @property
    def shares(self) -> list[float]:
        """The share of each class among the predictions, from 0 to 1, by class id; empty if unknown."""
        columns = [sum(column) for column in zip(*self.confusion, strict=False)]
        return [column / sum(columns) for column in columns] if sum(columns) else []


class Manifest(BaseModel):
    """The fields of manifest.json that the service reads."""

    model_config = ConfigDict(extra="ignore")

    model: str
    sha256: str
    golden: Golden
    metrics: ReportedMetrics = ReportedMetrics()


@dataclass(frozen=True)
class VersionFiles:
    """A version's files, read and consistent with each other. `manifest` is None if another tool made the version."""

    name: str  # of the graph's file
    folder: Path  # of the graph's file and of the weight files beside it
    model: bytes
    sha256: str
    manifest: Manifest | None
    golden: dict[str, NDArray[Any]]
    golden_tolerance: float


def printable_name(name: str) -> str:
    """A file's name as one line of UTF-8: other bytes, control characters and backslashes are escaped."""
    text = os.fsencode(name.replace("\\", "\\\\")).decode("utf-8", "backslashreplace")
    return "".join(c.encode("unicode_escape").decode() if unicodedata.category(c) in UNNAMEABLE else c for c in text)


@contextmanager
def open_file(path: Path) -> Iterator[io.BufferedReader]:
    """Open a regular file for reading, without waiting for the writer of a pipe.

    Raises:
        OSError: the file cannot be opened, or is not a regular file.
    """
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file", str(path))
        yield file


def read_optional(path: Path) -> bytes | None:
    """The file's content; None if there is no such file.

    Raises:
        FilesUnreadable: the file cannot be read, or is a link to nothing.
    """
    try:
        with open_file(path) as file:
            return file.read()
    except (FileNotFoundError, NotADirectoryError) as error:
        if path.is_symlink():  # whoever made the link wants the file to count
            raise FilesUnreadable(f"{path} cannot be read: it is a link to nothing") from error
        return None
    except OSError as error:
        raise FilesUnreadable(f"{path} cannot be read: {error.strerror}") from error


def read_file(path: Path) -> bytes:
    """The file's content.

    Raises:
        FilesError: there is no such file.
        FilesUnreadable: the file cannot be read.
    """
    content = read_optional(path)
    if content is None:
        raise FilesError(f"{path} cannot be read: {os.strerror(errno.ENOENT)}")
    return content


def read_version(folder: ModelFolder, version: int, filename: str = GRAPH) -> VersionFiles:
    """Read a version's files. `filename` may also name a folder that holds a graph of that name beside its weights.

    Raises:
        FilesError: a file is missing or unreadable, or the graph does not match its manifest.
    """
    path = folder.version_path(version)
    if Path(filename).name != filename:
        raise FilesError(f"default_model_filename {filename!r} is not a plain file name")
    graph = path / filename / filename if _is_folder(path / filename) else path / filename
    model = read_file(graph)
    sha256 = hashlib.sha256(model).hexdigest()
    manifest = _read_manifest(path / "manifest.json")
    if manifest is None:
        return VersionFiles(filename, graph.parent, model, sha256, None, {}, 0.0)
    if manifest.model != folder.name:
        raise FilesError(f"{path / 'manifest.json'} describes the model {manifest.model!r}, not {folder.name!r}")
    if manifest.sha256 != sha256:
        raise FilesError(
            f"{graph} does not match its manifest: expected SHA-256 {manifest.sha256}, got {sha256}; publish it again"
        )
    golden = _read_golden(path / "golden.npz")
    return VersionFiles(filename, graph.parent, model, sha256, manifest, golden, manifest.golden.tolerance)


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:
        return False


def _read_manifest(path: Path) -> Manifest | None:
    content = read_optional(path)
    try:
        return None if content is None else Manifest.model_validate(json.loads(content))
    except (ValueError, ValidationError) as error:
        raise FilesError(f"{path} cannot be read: {error}") from error


def _read_golden(path: Path) -> dict[str, NDArray[Any]]:
    content = read_optional(path)
    if content is None:
        raise FilesError(f"{path} cannot be read: there is no such file; a version with a manifest needs it")
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            return dict(arrays)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise FilesError(f"{path} cannot be read: {error}; a version with a manifest needs it") from error


def label_names(folder: ModelFolder, filename: str) -> tuple[str, ...]:
    """Read an output's labels: one a line, by class id.

    Raises:
        FilesError: the file is missing, unreadable or outside the model's folder.
    """
    path = folder.path / filename
    if folder.path.resolve() not in path.resolve().parents:
        raise FilesError(f"label_filename {filename!r} points outside {folder.path}")
    try:
        return tuple(read_file(path).decode().splitlines())
    except UnicodeDecodeError as error:
        raise FilesError(f"{path} cannot be read: {error}") from error
