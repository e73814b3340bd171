"""Publishing into the model repository, by whose files the training job hands a model to the service.

    REPOSITORY/NAME/config.pbtxt
                    labels.txt  .last_version
                    N/model.onnx  manifest.json  golden.npz  README.md

A version appears whole, by one rename, or not at all, under a number that no version of the model had before.
It appears only if the service would take it, and nothing else of the folder changes before. config.pbtxt and labels.txt
are written before the first version. The manifest has the labels and the hashes of graph and golden answers, and
golden.npz repeats the labels: nothing beside a version decides what its answers mean. labels.txt is for Triton.

Not here: what the service takes (acceptance.py), the rest of the manifest's content (manifest.py), what the graph says
of itself (description.py), README.md's text (card.py).
"""

import fcntl
import hashlib
import io
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.models.repository.version_files import CONFIG, VERSION_NAME
from training.atomic_files import sync_folder, write_and_sync, write_atomically
from training.publishing import acceptance
from training.publishing.description import describe
from training.publishing.export import INPUT, OUTPUT
from training.strict_json import to_json

MANIFEST_SCHEMA = 5
MAX_BATCH_SIZE = 64
GOLDEN_LABELS = "labels"
LABELS = "labels.txt"
# Remembers the number of a version that was deleted, because clients, logs and caches still know it. Servers ignore it.
LAST_VERSION = ".last_version"


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
        NotAccepted: the service would refuse the version, or an older one has other classes; the folder is unchanged.
        OSError: the repository cannot be written; published versions are unchanged.
    """
    with _locked(repository / artifact.name) as folder:
        for abandoned in folder.glob(".*.tmp"):  # a killed job left them
            shutil.rmtree(abandoned) if abandoned.is_dir() else abandoned.unlink()
        proposal = _proposal(folder, artifact.label_names, artifact.image_shape)
        number = proposal.number
        staging = folder / f".{number}.tmp"
        staging.mkdir()
        try:
            _write_version(staging, artifact, number)
            acceptance.check_files(proposal, staging)
            write_atomically(folder / LABELS, "".join(f"{label}\n" for label in artifact.label_names).encode())
            if proposal.new_config is not None:
                write_atomically(folder / CONFIG, proposal.new_config.encode())
            write_atomically(folder / LAST_VERSION, f"{number}\n".encode())  # first: a killed job skips a number
            staging.rename(folder / str(number))
        except BaseException:
            shutil.rmtree(staging, ignore_errors=True)
            raise
        sync_folder(folder)
    return folder / str(number)


def check_publishable(folder: Path, label_names: tuple[str, ...], image_shape: tuple[int, int, int]) -> None:
    """Find out before training whether publish() would refuse these classes and images (H, W, C) in a model's folder.

    Raises:
        NotAccepted: it would, for the reason that publish() would give.
    """
    if folder.is_dir():
        acceptance.check_shape(_proposal(folder, label_names, image_shape), image_shape)


def _proposal(folder: Path, label_names: tuple[str, ...], image_shape: tuple[int, int, int]) -> acceptance.Proposal:
    """What is to become the next version. A config.pbtxt that exists is kept: it may have an operator's changes."""
    number = max(newest_version(folder), _last_version(folder)) + 1
    keeps_config = os.path.lexists(folder / CONFIG)
    config = None if keeps_config else model_config(folder.name, label_names, image_shape)
    return acceptance.Proposal(folder, number, label_names, config)


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
def _locked(folder: Path) -> Iterator[Path]:
    """Lock a model's folder against other jobs; the kernel releases the lock if the process dies.

    A folder that was made for a version which was then refused is removed again.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    handle = _open_and_lock(folder)
    try:
        yield folder
    except BaseException:
        if made and not newest_version(folder):
            shutil.rmtree(folder)
            for path in made[1:]:
                with suppress(OSError):  # another job uses it
                    path.rmdir()
        raise
    finally:
        os.close(handle)


def _open_and_lock(folder: Path) -> int:
    """The handle of the folder, which is made if need be; another job may remove it before it is locked."""
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):
            handle = os.open(folder, os.O_RDONLY)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX)
                if os.path.samestat(os.fstat(handle), folder.stat()):
                    return handle
            except BaseException:
                os.close(handle)
                raise
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


def model_config(name: str, label_names: tuple[str, ...], image_shape: tuple[int, int, int]) -> str:
    """The model's config.pbtxt, in Triton's schema."""
    dims = ", ".join(str(size) for size in image_shape)
    return f"""\
name: "{name}"
platform: "onnxruntime_onnx"
max_batch_size: {MAX_BATCH_SIZE}
input [ {{ name: "{INPUT}" data_type: TYPE_UINT8 dims: [ {dims} ] }} ]
output [ {{
  name: "{OUTPUT}" data_type: TYPE_FP32 dims: [ {len(label_names)} ]
  label_filename: "{LABELS}"
}} ]
dynamic_batching {{ }}
"""
