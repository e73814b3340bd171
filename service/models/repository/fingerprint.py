"""What identifies a version: the settings of its engines and the content of its files.

Owns the fingerprint, which stays the same when a file's time, owner or permissions change, and when the version policy
or the routing in config.pbtxt changes. A file is read once: it is read again only if its status on disk (inode, size,
times) differs from when it was hashed. The time of the last status change (ctime) tells of edits that restore the time
of modification. A file that changed less than SETTLED_NS before it was hashed is hashed again next time, since the
clock of a file system may be too coarse to tell of another change. Not here: what the files mean (version_files.py).
"""

import contextlib
import hashlib
import mmap
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from service.models.repository.checksums import shared_files
from service.models.repository.graph_files import link_text, weight_paths
from service.models.repository.routing import CANARY, PERCENT, STABLE
from service.models.repository.version_files import GRAPH, ModelFolder, graph_path, open_file, own_labels
from service.pb.model_config_pb2 import ModelConfig

# The coarsest clock of a file system in use: two seconds, on FAT.
SETTLED_NS = 2_000_000_000

Clock = Callable[[], int]  # nanoseconds since the epoch


@dataclass(frozen=True)
class HashedFile:
    """A file's SHA-256, or what it is instead of a readable file; `status` is None if it must be hashed again."""

    digest: str
    status: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Fingerprint:
    """A version's identity: versions with the same `digest` are the same. `files` spares the next one from reading."""

    digest: str
    files: Mapping[str, HashedFile]


def fingerprint(
    folder: ModelFolder,
    version: int,
    config: ModelConfig,
    known: Mapping[str, HashedFile],
    *,
    now: Clock = time.time_ns,
) -> Fingerprint:
    """The version's fingerprint under this configuration. `known` are files of earlier fingerprints of the version.

    A file that cannot be read is part of the fingerprint as such. Raises nothing.
    """
    files = {name: _hash(path, known.get(name), now) for name, path in _files(folder, version, config)}
    digest = hashlib.sha256(_engine_settings(config))
    for name, file in sorted(files.items()):
        digest.update(f"{os.fsencode(name)!r}:{file.digest}\n".encode())
    return Fingerprint(digest.hexdigest(), files)


def _engine_settings(config: ModelConfig) -> bytes:
    """The settings that engines depend on: all but the version policy and the routing."""
    settings = ModelConfig()
    settings.CopyFrom(config)
    settings.ClearField("version_policy")
    for name in (STABLE, CANARY, PERCENT):
        settings.parameters.pop(name, None)
    return settings.SerializeToString(deterministic=True)


def _files(folder: ModelFolder, version: int, config: ModelConfig) -> Iterator[tuple[str, Path]]:
    """The files that a version depends on, with a name for each."""
    label_files = [output.label_filename for output in config.output if output.label_filename]
    if label_files and own_labels(folder, version) is None:
        for name in label_files:
            yield f"../{name}", folder.path / name
    for name in shared_files(config):
        yield f"../{name}", folder.path / name
    root = folder.version_path(version)
    unreadable: list[Path] = []
    graph = graph_path(folder, version, config.default_model_filename or GRAPH)
    is_linked = graph.is_symlink()
    for parent, folders, names in os.walk(root, onerror=lambda error: unreadable.append(Path(error.filename))):
        links = [name for name in folders if Path(parent, name).is_symlink()]
        for name in (*names, *links):  # links to folders are not followed: they may lead anywhere
            path = Path(parent, name)
            yield str(path.relative_to(root)), path
            if text := link_text(path):
                yield f"{path.relative_to(root)} -> {text}", path.parent / text
        is_linked = is_linked or bool(links)
    if is_linked:
        yield from _behind_links(root, graph)
    for path in unreadable:
        yield str(path.relative_to(root)), path


def _behind_links(root: Path, graph: Path) -> Iterator[tuple[str, Path]]:
    """The graph and the files that may hold its weights, if they lie in folders outside the version's."""
    found = [("graph", graph)]
    with contextlib.suppress(OSError, ValueError), open_file(graph) as file:  # ValueError: it is empty
        found += weight_paths(graph, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    for name, path in found:
        if not Path(os.path.realpath(path.parent)).is_relative_to(os.path.realpath(root)):
            yield f"-> {name}", path


def _hash(path: Path, known: HashedFile | None, now: Clock) -> HashedFile:
    try:
        if known and known.status and known.status == _status(path.stat()):
            return known
        if path.is_dir():
            return HashedFile(f"folder {os.path.realpath(path)!a}")
        started = now()
        with open_file(path) as file:
            before = os.fstat(file.fileno())
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            after = os.fstat(file.fileno())
    except OSError as error:
        return HashedFile(type(error).__name__)
    settled = _status(before) == _status(after) and started - after.st_ctime_ns > SETTLED_NS
    return HashedFile(digest, _status(after) if settled else None)


def _status(status: os.stat_result) -> tuple[int, ...]:
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
