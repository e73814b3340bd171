"""Reads the model repository on disk, which has Triton's layout.

    REPOSITORY/NAME/config.pbtxt     optional; omitted fields are derived from the graph
                    labels.txt       optional; an output's label_filename names it
                    N/model.onnx     with manifest.json and golden.npz if the training job published it

Owns the list of models and versions, their files, and the errors that name an invalid file. A version is a folder whose
name is a positive number without leading zeros; other names are ignored. Not here: config.pbtxt (config.py), loading
(loader.py).
"""

import hashlib
import json
import os
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf import text_format
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from service.core.errors import FilesError, FilesUnreadable
from service.models.graph_files import read_graph
from service.pb.model_config_pb2 import ModelConfig

PLATFORM, BACKEND, GRAPH = "onnxruntime_onnx", "onnxruntime", "model.onnx"
VERSION_NAME = re.compile(r"[1-9][0-9]{0,17}")
# Parameters of config.pbtxt that routing.py reads.
ROUTING_PARAMETERS = ("stable", "canary", "canary_percent")


@dataclass(frozen=True)
class ModelFolder:
    """A model on disk: its version numbers, newest first, each with a fingerprint that changes with its files."""

    path: Path
    versions: dict[int, str]

    @property
    def name(self) -> str:
        """The model's name, which is the folder's name."""
        return self.path.name

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


def scan(repository: Path) -> list[ModelFolder]:
    """List all model folders, by name.

    Raises:
        FilesError: the repository cannot be read.
    """
    try:
        folders = sorted(path for path in repository.iterdir() if path.is_dir() and not path.name.startswith("."))
        return [ModelFolder(path, _versions(path)) for path in folders]
    except OSError as error:
        raise FilesUnreadable(f"the repository {repository} cannot be read: {error}") from error


def read_model_folder(folder: Path) -> ModelFolder:
    """List the versions of one model folder.

    Raises:
        FilesError: the folder cannot be read.
    """
    try:
        path = Path(os.path.abspath(folder))  # noqa: PTH100 # links stay, as when the service scans the repository
        return ModelFolder(path, _versions(path))
    except OSError as error:
        raise FilesUnreadable(f"the model folder {folder} cannot be read: {error.strerror}") from error


def _versions(folder: Path) -> dict[int, str]:
    numbers = sorted((int(path.name) for path in folder.iterdir() if VERSION_NAME.fullmatch(path.name)), reverse=True)
    config = _config_stamp(folder)
    return {
        number: config + "".join(_stamp(path) for path in sorted((folder / str(number)).rglob("*")))
        for number in numbers
    }


def _config_stamp(folder: Path) -> str:
    """The stamp of config.pbtxt. It changes with the settings of engines, but not with version policy or routing."""
    config = ModelConfig()
    try:
        text_format.Parse((folder / "config.pbtxt").read_text(), config)
    except (OSError, UnicodeDecodeError, text_format.ParseError):
        return _stamp(folder / "config.pbtxt")
    config.ClearField("version_policy")
    for name in ROUTING_PARAMETERS:
        config.parameters.pop(name, None)
    digest = hashlib.sha256(config.SerializeToString(deterministic=True)).hexdigest()
    labels = [output.label_filename for output in config.output if output.label_filename]
    return digest + "".join(_stamp(folder / name) for name in labels)


def _stamp(path: Path) -> str:
    try:
        stat = path.stat()
    except OSError:
        return f"{path.name}:-;"
    return f"{path.name}:{stat.st_mtime_ns}:{stat.st_size};"


def read_version(folder: ModelFolder, version: int, filename: str = GRAPH) -> VersionFiles:
    """Read a version's files. `filename` may also name a folder that holds a graph of that name beside its weights.

    Raises:
        FilesError: a file is missing or unreadable, or the graph does not match its manifest.
    """
    path = folder.version_path(version)
    if Path(filename).name != filename:
        raise FilesError(f"default_model_filename {filename!r} is not a plain file name")
    graph = path / filename / filename if (path / filename).is_dir() else path / filename
    model = read_graph(graph)
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


def _read_manifest(path: Path) -> Manifest | None:
    try:
        return Manifest.model_validate(json.loads(path.read_bytes()))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise FilesUnreadable(f"{path} cannot be read: {error}") from error
    except (ValueError, ValidationError) as error:
        raise FilesError(f"{path} cannot be read: {error}") from error


def _read_golden(path: Path) -> dict[str, NDArray[Any]]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
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
        return tuple(path.read_text().splitlines())
    except (OSError, UnicodeDecodeError) as error:
        raise FilesError(f"{path} cannot be read: {error}") from error
