"""The model repository on disk: Triton's layout, read.

    REPOSITORY/NAME/config.pbtxt     optional: what it leaves out is derived from the graph
                    labels.txt       where an output names it
                    N/model.onnx     and, from our training job, manifest.json and golden.npz

Owns: which models and versions there are, and reading their files with every problem named. Does not own: loading.
Only folders whose name is a positive number without leading zeros are versions; all else is ignored.
"""

import hashlib
import json
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf import text_format
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from service.core.errors import FilesError
from service.pb.model_config_pb2 import ModelConfig

PLATFORM, BACKEND, GRAPH = "onnxruntime_onnx", "onnxruntime", "model.onnx"
VERSION_NAME = re.compile(r"[1-9][0-9]{0,17}")
# Of config.pbtxt, what says which version answers; see routing.py.
ROUTING_PARAMETERS = ("stable", "canary", "canary_percent")


@dataclass(frozen=True)
class ModelFolder:
    """A model on disk: its newest-first version numbers and a fingerprint of each, which changes with its files."""

    path: Path
    versions: dict[int, str]

    @property
    def name(self) -> str:
        """The folder's name is the model's."""
        return self.path.name

    def version_path(self, version: int) -> Path:
        """The folder of a version."""
        return self.path / str(version)


class Golden(BaseModel):
    """The part of a manifest that says how exactly golden answers must be met."""

    tolerance: float


class ReportedMetrics(BaseModel):
    """How the version did on the job's test set: shares from 0 to 1, and numbers of images, true by predicted class."""

    test_accuracy: float | None = None
    test_confidence: float | None = None
    confusion: list[list[int]] = []

    @property
    def shares(self) -> list[float]:
        """Of each class among the predictions, by class id; empty if that is unknown."""
        columns = [sum(column) for column in zip(*self.confusion, strict=False)]
        return [column / sum(columns) for column in columns] if sum(columns) else []


class Manifest(BaseModel):
    """What the service reads of manifest.json; the rest is for people."""

    model_config = ConfigDict(extra="ignore")

    model: str
    sha256: str
    golden: Golden
    metrics: ReportedMetrics = ReportedMetrics()


@dataclass(frozen=True)
class VersionFiles:
    """A version's files, read and consistent with each other. `manifest` None means made by somebody else."""

    name: str  # of the graph's file
    folder: Path  # in which the graph's file lies, and what it refers to
    model: bytes
    sha256: str
    manifest: Manifest | None
    golden: dict[str, NDArray[Any]]
    golden_tolerance: float


def scan(repository: Path) -> list[ModelFolder]:
    """All model folders, by name.

    Raises:
        FilesError: the repository cannot be read.
    """
    try:
        folders = sorted(path for path in repository.iterdir() if path.is_dir() and not path.name.startswith("."))
        return [ModelFolder(path, _versions(path)) for path in folders]
    except OSError as error:
        raise FilesError(f"the repository {repository} cannot be read: {error}") from error


def read_model_folder(folder: Path) -> ModelFolder:
    """One model folder.

    Raises:
        FilesError: it cannot be read.
    """
    try:
        return ModelFolder(folder.resolve(), _versions(folder))
    except OSError as error:
        raise FilesError(f"the model folder {folder} cannot be read: {error.strerror}") from error


def _versions(folder: Path) -> dict[int, str]:
    numbers = sorted((int(path.name) for path in folder.iterdir() if VERSION_NAME.fullmatch(path.name)), reverse=True)
    config = _config_stamp(folder)
    return {
        number: config + "".join(_stamp(path) for path in sorted((folder / str(number)).rglob("*")))
        for number in numbers
    }


def _config_stamp(folder: Path) -> str:
    """Changes with all that a version's engines are made from; not with the policy and the routing among versions."""
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
    """Read a version's files. The graph may also be a folder that holds a file of the same name, beside its weights.

    Raises:
        FilesError: one is missing or cannot be read, or the graph is not the one that the manifest describes.
    """
    path = folder.version_path(version)
    if Path(filename).name != filename:
        raise FilesError(f"default_model_filename {filename!r} is no plain file name")
    graph = path / filename / filename if (path / filename).is_dir() else path / filename
    try:
        model = graph.read_bytes()
    except OSError as error:
        raise FilesError(f"{graph} cannot be read: {error.strerror}") from error
    sha256 = hashlib.sha256(model).hexdigest()
    manifest = _read_manifest(path / "manifest.json")
    if manifest is None:
        return VersionFiles(filename, graph.parent, model, sha256, None, {}, 0.0)
    if manifest.model != folder.name:
        raise FilesError(f"{path / 'manifest.json'} describes {manifest.model!r}, not {folder.name!r}")
    if manifest.sha256 != sha256:
        raise FilesError(
            f"{graph} is not what its manifest describes: expected SHA-256 {manifest.sha256}, "
            f"got {sha256}; publish it again"
        )
    golden = _read_golden(path / "golden.npz")
    return VersionFiles(filename, graph.parent, model, sha256, manifest, golden, manifest.golden.tolerance)


def _read_manifest(path: Path) -> Manifest | None:
    try:
        return Manifest.model_validate(json.loads(path.read_bytes()))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, ValidationError) as error:
        raise FilesError(f"{path} cannot be read: {error}") from error


def _read_golden(path: Path) -> dict[str, NDArray[Any]]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise FilesError(f"{path} cannot be read: {error}; a version with a manifest must have it") from error


def label_names(folder: ModelFolder, filename: str) -> tuple[str, ...]:
    """The labels of an output, one a line, by class id.

    Raises:
        FilesError: the file is missing or lies outside the model's folder.
    """
    path = folder.path / filename
    if folder.path.resolve() not in path.resolve().parents:
        raise FilesError(f"label_filename {filename!r} leads out of {folder.path}")
    try:
        return tuple(path.read_text().splitlines())
    except (OSError, UnicodeDecodeError) as error:
        raise FilesError(f"{path} cannot be read: {error}") from error
