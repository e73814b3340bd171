"""golden.npz: golden samples, golden pictures, and the labels again, as the training job publishes them.

Not here: whether an engine reproduces the answers (verification/).
"""

import hashlib
import io
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.core.load_errors import FilesError
from service.core.spec import ModelSpec
from service.models.repository.manifest import Manifest

LABELS = "labels"  # the array that repeats the manifest's labels
# The array of a golden picture's file has this prefix; the answers are in the order of the files' names.
PICTURE, PICTURE_ANSWERS = "picture:", "picture_answers"


@dataclass(frozen=True)
class GoldenPictures:
    """Picture files by name, sorted, and the graph's answers (N, classes), which may differ by at most `tolerance`."""

    files: Mapping[str, bytes]
    answers: NDArray[np.generic]
    tolerance: float


def parse_golden(
    path: Path, content: bytes, manifest: Manifest
) -> tuple[dict[str, NDArray[Any]], GoldenPictures | None]:
    """The golden samples by tensor, and the golden pictures; None if the manifest says nothing of any.

    Raises:
        FilesError: the content or the labels in it are not those of the manifest, or it cannot be read.
    """
    _check_sha256(path, hashlib.sha256(content).hexdigest(), manifest)
    try:
        with np.lib.npyio.NpzFile(io.BytesIO(content), own_fid=True) as arrays:
            golden = dict(arrays)
    except (OSError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise FilesError(f"{path} cannot be read: {error}; a version with a manifest needs it") from error
    has_labels = LABELS in golden and golden[LABELS].dtype.kind == "U"  # in an older version it may be a tensor's name
    if (tuple(golden.pop(LABELS).tolist()) if has_labels else None) != manifest.labels:
        raise FilesError(f"{path} has other labels than its manifest; publish it again")
    pictures = _pop_pictures(path, golden, manifest) if manifest.golden.pictures else None
    return golden, pictures


def count_samples(golden: Mapping[str, NDArray[np.generic]], spec: ModelSpec) -> int:
    """The number of golden samples, which have every input and output of the model, in the shapes that callers see.

    Raises:
        FilesError: a tensor is missing or has no samples, or an output has another shape.
    """
    missing = [tensor.name for tensor in (*spec.inputs, *spec.outputs) if tensor.name not in golden]
    if missing:
        raise FilesError(f"golden.npz holds {sorted(golden)}, but not {missing[0]!r}")
    for tensor in (*spec.inputs, *spec.outputs):
        if not golden[tensor.name].shape:
            raise FilesError(f"golden.npz holds one value of {tensor.name!r} instead of samples")
    samples = min(len(golden[tensor.name]) for tensor in (*spec.inputs, *spec.outputs))
    if samples == 0:
        raise FilesError("golden.npz holds no samples")
    for output in spec.outputs:
        found, shape = golden[output.name].shape[1:], output.shape if spec.batches else output.shape[1:]
        if len(found) != len(shape) or any(axis not in (-1, size) for axis, size in zip(shape, found, strict=True)):
            raise FilesError(
                f"golden.npz holds samples of {output.name!r} with shape {list(found)}, the model answers {list(shape)}"
            )
    return samples


def _check_sha256(path: Path, sha256: str, manifest: Manifest) -> None:
    expected = manifest.golden_sha256
    if sha256 != expected and (expected or manifest.labels is not None):
        raise FilesError(
            f"{path} does not match its manifest: expected SHA-256 {expected or '(none)'}, got {sha256}; "
            "publish it again"
        )


def _pop_pictures(path: Path, golden: dict[str, NDArray[Any]], manifest: Manifest) -> GoldenPictures:
    names = sorted(name for name in golden if name.startswith(PICTURE))
    files = {name.removeprefix(PICTURE): golden.pop(name).tobytes() for name in names}
    answers = golden.pop(PICTURE_ANSWERS, np.empty((0, 0), np.float32))
    expected = manifest.golden.pictures
    if len(files) != expected or answers.ndim != 2 or len(answers) != expected or answers.dtype.kind != "f":
        raise FilesError(
            f"{path} has {len(files)} golden pictures and answers of type {answers.dtype} and shape "
            f"{list(answers.shape)}, its manifest says {expected} pictures; publish it again"
        )
    return GoldenPictures(files, answers, manifest.golden.picture_tolerance)
