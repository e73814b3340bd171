"""Reads the files of the model repository, which has Triton's layout.

    REPOSITORY/NAME/config.pbtxt     optional; omitted fields are derived from the graph
                    labels.txt       optional; an output's label_filename names it
                    N/model.onnx     with manifest.json and golden.npz if the training job published it

Owns the files of a version, and the errors that name an invalid file or one that cannot be read. Only regular files are
read: a pipe would block the reader. A version is a folder whose name is a positive number without leading zeros; other
names are ignored. Not here: the content of manifest.json and golden.npz (manifest.py, golden_file.py), which folders
are models (scan.py), config.pbtxt (config.py), label files (labels.py), loading (loader.py).
"""

import errno
import hashlib
import io
import os
import re
import stat
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from service.core.load_errors import FilesError, FilesUnreadable, LoadError
from service.models.repository.golden_file import GoldenPictures, parse_golden
from service.models.repository.graph_files import check_content, check_no_pointer, follow_link_text
from service.models.repository.manifest import Manifest, parse_manifest

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
    staged: Mapping[int, Path] = field(default_factory=dict)  # versions that are still in another folder

    @property
    def name(self) -> str:
        """The model's name, which is the folder's name; see printable_name()."""
        return printable_name(self.path.name)

    def version_path(self, version: int) -> Path:
        """The folder of a version."""
        return self.staged.get(version, self.path / str(version))


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
    pictures: GoldenPictures | None = None

    @property
    def labels(self) -> tuple[str, ...] | None:
        """The class names that the manifest gives; None if the model's label file names them."""
        return self.manifest.labels if self.manifest else None


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
    if "\0" in str(path):
        raise OSError(errno.EINVAL, "its name holds a NUL", str(path))
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file", str(path))
        yield file


def read_optional(path: Path) -> bytes | None:
    """The file's content; None if there is no such file.

    Raises:
        FilesError: the file is a Git LFS pointer.
        FilesUnreadable: the file cannot be read, or is a link to nothing.
    """
    try:
        with open_file(path) as file:
            content = file.read()
    except (FileNotFoundError, NotADirectoryError) as error:
        if path.is_symlink():  # whoever made the link wants the file to count
            raise FilesUnreadable(f"{path} cannot be read: it is a link to nothing") from error
        return None
    except OSError as error:
        raise FilesUnreadable(f"{path} cannot be read: {error.strerror}") from error
    check_no_pointer(path, content)
    return content


def read_file(path: Path) -> bytes:
    """The file's content.

    Raises:
        FilesError: there is no such file, or it is a Git LFS pointer.
        FilesUnreadable: the file cannot be read.
    """
    content = read_optional(path)
    if content is None:
        raise FilesError(f"{path} cannot be read: {os.strerror(errno.ENOENT)}")
    return content


def given_folders(folder: ModelFolder, version: int) -> list[Path]:
    """The folders that the operator gave: the repository, and where the links of the model and the version lead."""
    return [path.resolve() for path in (folder.path.parent, folder.path, folder.version_path(version))]


def read_version(folder: ModelFolder, version: int, filename: str = GRAPH) -> VersionFiles:
    """Read a version's files. `filename` may also name a folder that holds a graph of that name beside its weights.

    Raises:
        FilesError: a file is missing or unreadable, or the graph, golden.npz or the labels do not match the manifest.
    """
    if Path(filename).name != filename or filename == "..":
        raise FilesError(f"default_model_filename {filename!r} is not a plain file name")
    path, graph = folder.version_path(version), graph_path(folder, version, filename)
    model = read_file(follow_link_text(graph, given_folders(folder, version)))
    check_content(graph, model)
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
    content = read_optional(path / "golden.npz")
    if content is None:
        raise FilesError(
            f"{path / 'golden.npz'} cannot be read: there is no such file; a version with a manifest needs it"
        )
    golden, pictures = parse_golden(path / "golden.npz", content, manifest)
    return VersionFiles(filename, graph.parent, model, sha256, manifest, golden, manifest.golden.tolerance, pictures)


def graph_path(folder: ModelFolder, version: int, filename: str) -> Path:
    """The graph's file: of that name, or in a folder of that name."""
    path = folder.version_path(version) / filename
    return path / filename if _is_folder(path) else path


def own_labels(folder: ModelFolder, version: int) -> tuple[str, ...] | None:
    """The labels in the version's manifest; None if it has none, so that the model's label files concern it."""
    try:
        manifest = _read_manifest(folder.version_path(version) / "manifest.json")
    except FilesError:
        return None
    return manifest.labels if manifest else None


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:
        return False


def _read_manifest(path: Path) -> Manifest | None:
    content = read_optional(path)
    return None if content is None else parse_manifest(path, content)
