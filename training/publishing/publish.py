"""Publishing into the model repository, which is all that the training job and the service share.

    REPOSITORY/NAME/config.pbtxt
                    labels.txt  .last_version
                    N/model.onnx  manifest.json  golden.npz  README.md

A version appears whole, by one rename, or not at all, under a number that no version of the model had before.
config.pbtxt and labels.txt are written before the first version. The manifest has the labels and the hashes of graph
and golden answers, and golden.npz repeats the labels: nothing beside a version decides what its answers mean.
labels.txt is for Triton.

Not here: the rest of the manifest's content (manifest.py), what the graph says of itself (description.py), README.md's
text (card.py).
"""

import fcntl
import hashlib
import io
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.atomic_files import sync_folder, write_and_sync, write_atomically
from training.publishing.description import describe
from training.strict_json import to_json

MANIFEST_SCHEMA = 5
MAX_BATCH_SIZE = 64
GOLDEN_LABELS = "labels"
# Remembers the number of a version that was deleted, because clients, logs and caches still know it. Servers ignore it.
LAST_VERSION = ".last_version"
VERSION_NAME = re.compile(r"[1-9][0-9]{0,17}")  # other names are no version to the service


@dataclass(frozen=True)
class Artifact:
    """A version to publish: its graph, its manifest, and golden answers that every server of it must reproduce."""

    name: str
    model: bytes
    manifest: Mapping[str, Any]
    golden: Mapping[str, NDArray[Any]]  # the arrays of golden.npz, see golden.py; none is named GOLDEN_LABELS
    label_names: tuple[str, ...]  # by class id
    image_shape: tuple[int, int, int]  # (H, W, C)
    card: Callable[[Mapping[str, Any]], str] | None = None  # the text of README.md, from the whole manifest


def publish(repository: Path, artifact: Artifact) -> Path:
    """Write the artifact as the next version of its model and return its folder.

    Raises:
        OSError: the repository cannot be written; published versions are unchanged.
    """
    folder = repository / artifact.name
    folder.mkdir(parents=True, exist_ok=True)
    with _lock(folder):
        for abandoned in folder.glob(".*.tmp"):  # a killed job left them
            shutil.rmtree(abandoned) if abandoned.is_dir() else abandoned.unlink()
        write_atomically(folder / "labels.txt", "".join(f"{label}\n" for label in artifact.label_names).encode())
        if not (folder / "config.pbtxt").exists():  # keep an operator's changes
            write_atomically(folder / "config.pbtxt", model_config(artifact).encode())
        number = max(newest_version(folder), _last_version(folder)) + 1
        staging = folder / f".{number}.tmp"
        staging.mkdir()
        try:
            _write_version(staging, artifact, number)
            write_atomically(folder / LAST_VERSION, f"{number}\n".encode())  # first: a killed job skips a number
            staging.rename(folder / str(number))
        except BaseException:
            shutil.rmtree(staging, ignore_errors=True)
            raise
        sync_folder(folder)
    return folder / str(number)


def _write_version(folder: Path, artifact: Artifact, number: int) -> None:
    golden = _golden_file(artifact)
    manifest = {
        "schema": MANIFEST_SCHEMA,
        "model": artifact.name,
        "version": number,
        "labels": artifact.label_names,
        **artifact.manifest,
    }
    model = describe(artifact.model, manifest)
    manifest |= {
        "sha256": hashlib.sha256(model).hexdigest(),
        "graph_sha256": hashlib.sha256(artifact.model).hexdigest(),  # without the description, which names the run
        "golden_sha256": hashlib.sha256(golden).hexdigest(),
    }
    write_and_sync(folder / "model.onnx", model)
    write_and_sync(folder / "manifest.json", to_json(manifest, indent=2).encode() + b"\n")
    write_and_sync(folder / "golden.npz", golden)
    if artifact.card:
        write_and_sync(folder / "README.md", artifact.card(manifest).encode())
    sync_folder(folder)


def _golden_file(artifact: Artifact) -> bytes:
    """The content of golden.npz: the golden samples by tensor, and the labels of the classes."""
    golden = io.BytesIO()
    arrays = {**artifact.golden, GOLDEN_LABELS: np.array(artifact.label_names)}
    np.savez_compressed(golden, allow_pickle=False, **arrays)
    return golden.getvalue()


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """Lock the folder against other jobs; the kernel releases the lock if the process dies."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def newest_version(folder: Path) -> int:
    """The largest version number in a model's folder; 0 if there is no version or no folder."""
    names = (path.name for path in folder.iterdir()) if folder.is_dir() else ()
    return max((int(name) for name in names if VERSION_NAME.fullmatch(name)), default=0)


def _last_version(folder: Path) -> int:
    """The largest number that a version of the model ever had, deleted versions included; 0 if that is not known."""
    try:
        text = (folder / LAST_VERSION).read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return 0
    return int(text) if VERSION_NAME.fullmatch(text) else 0


def model_config(artifact: Artifact) -> str:
    """The model's config.pbtxt, in Triton's schema."""
    dims = ", ".join(str(size) for size in artifact.image_shape)
    return f"""\
name: "{artifact.name}"
platform: "onnxruntime_onnx"
max_batch_size: {MAX_BATCH_SIZE}
input [ {{ name: "images" data_type: TYPE_UINT8 dims: [ {dims} ] }} ]
output [ {{
  name: "probabilities" data_type: TYPE_FP32 dims: [ {len(artifact.label_names)} ]
  label_filename: "labels.txt"
}} ]
dynamic_batching {{ }}
"""
