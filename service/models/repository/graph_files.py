"""The files of a graph: content that is no graph, and the weight files that the graph names.

A graph may keep its weights in files beside it (ONNX external data). They are found through symbolic links, as in the
cache of the Hugging Face hub or in a folder of releases, but only inside what the operator gave: the repository, the
folders that the model's and the version's links lead to, and the folders that the link of the graph's file leads
through. The text that Git writes in place of a link, where links are turned off, is followed like a link. A graph comes
from a stranger, and a path in it must not reach any other file.

Not here: which file is the graph (version_files.py), opening it (runtime/session.py).
Format: https://github.com/onnx/onnx/blob/main/docs/ExternalData.md
"""

import mmap
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from service.core.load_errors import FilesError, FilesUnreadable
from service.core.wire import fields

# By name in the graph: the contents of each weight file, mapped into memory.
Weights = Mapping[str, mmap.mmap]

LFS_POINTER = b"version https://git-lfs.github.com/spec/"
# What Git writes in place of a symbolic link where links are turned off: the link's target.
LINK_TEXT, MAX_LINK_TEXT = re.compile(rb"\.{0,2}/[^\0\n]+"), 4096
MAX_LINKS = 40  # as on Linux

# Where tensors lie in a serialised graph: for each message, the fields that lead to a tensor, by number.
# https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
_LEADS_TO: Mapping[str, Mapping[int, str]] = {
    "model": {7: "graph", 25: "function"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse tensor"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse tensor", 23: "sparse tensor"},
    "sparse tensor": {1: "tensor", 2: "tensor"},
}
_EXTERNAL_DATA, _DATA_LOCATION, _EXTERNAL = 13, 14, 1


def check_content(path: Path, content: bytes | mmap.mmap) -> None:
    """Refuse content that stands in for a graph or for weights.

    Raises:
        FilesError: the content is empty or a Git LFS pointer.
    """
    if not content:
        raise FilesError(f"{path} is empty")
    check_no_pointer(path, content)


def follow_link_text(path: Path, given: Iterable[Path]) -> Path:
    """The path, or where it leads if it holds the text of a link, as Git writes it where symbolic links are turned off.

    Raises:
        FilesError: it leads outside the given folders, or in a circle.
    """
    start, roots = path, list(given)
    for _ in range(MAX_LINKS):
        text = link_text(path)
        if text is None:
            return path
        path = (path.parent.resolve() / text).resolve()
        if not any(path.is_relative_to(root) for root in roots):
            raise FilesError(f"{start} holds the text of a link to {path}, outside the repository")
    raise FilesError(f"{start} holds the text of a link that leads in a circle")


def link_text(path: Path) -> str | None:
    """The text of a link that the file holds in place of its content; None if it holds something else."""
    try:
        if (
            path.is_file()
            and path.stat().st_size <= MAX_LINK_TEXT
            and LINK_TEXT.fullmatch(content := path.read_bytes())
        ):
            return content.decode()
    except (OSError, UnicodeDecodeError):  # who reads the file says what is wrong
        pass
    return None


def check_no_pointer(path: Path, content: bytes | mmap.mmap) -> None:
    """Refuse what Git leaves of a large file that was not pulled.

    Raises:
        FilesError: the content is a Git LFS pointer.
    """
    if content[: len(LFS_POINTER)] == LFS_POINTER:
        raise FilesError(f"{path} is a Git LFS pointer, not the file itself; run git lfs pull")


def open_weights(graph: Path, model: bytes, given: Iterable[Path]) -> Weights:
    """Map the weight files that a graph names. `given` are the folders that the operator gave, links resolved.

    Raises:
        FilesError: a file is missing, is no weight file, or lies outside the given folders.
    """
    locations = external_locations(model)
    if not locations:
        return {}
    beside = [path.parent for path in _link_targets(graph)]
    roots = [*given, *(folder.resolve() for folder in beside)]
    return {location: _map(_find(graph, location, beside, roots)) for location in locations}


def weight_paths(graph: Path, model: bytes | mmap.mmap) -> Iterator[tuple[str, Path]]:
    """Where weights that a graph names may lie, with a name for each: beside it, and beside each target of its link."""
    locations = [location for location in external_locations(model) if _is_beside(location)]
    for step, target in enumerate(_link_targets(graph) if locations else ()):
        yield from ((f"{step}/{location}", target.parent / location) for location in locations)


def external_locations(model: bytes | mmap.mmap) -> list[str]:
    """The paths of the weight files that a serialised graph names, sorted; as many as can be read of an invalid one."""
    found = set()
    unread = [("model", memoryview(model))]
    try:
        while unread:
            message, data = unread.pop()
            if message == "tensor":
                found |= _tensor_locations(data)
            else:
                leads_to = _LEADS_TO[message]
                unread += [
                    (leads_to[field.number], field.content)
                    for field in fields(data)
                    if field.number in leads_to and not isinstance(field.content, int)
                ]
    except ValueError:
        pass  # no graph: ONNX Runtime says why
    return sorted(found)


def _tensor_locations(tensor: memoryview) -> set[str]:
    """The path of the file that holds the tensor's elements; nothing if the graph itself holds them."""
    contents = [(field.number, field.content) for field in fields(tensor)]
    if (_DATA_LOCATION, _EXTERNAL) not in contents:
        return set()
    entries = [
        {field.number: field.content for field in fields(entry)}
        for number, entry in contents
        if number == _EXTERNAL_DATA and not isinstance(entry, int)
    ]
    return {_text(entry.get(2)) for entry in entries if _text(entry.get(1)) == "location"}


def _text(value: memoryview | int | None) -> str:
    return bytes(value).decode() if isinstance(value, memoryview) else ""


def _link_targets(path: Path) -> Iterator[Path]:
    """The path, and where its link leads, link by link."""
    yield path
    while path.is_symlink():
        path = path.parent / path.readlink()
        yield path


def _find(graph: Path, location: str, beside: Iterable[Path], roots: Iterable[Path]) -> Path:
    """The weight file, without links: beside the graph's file, or beside what its link leads to."""
    if not _is_beside(location):
        raise FilesError(f"{graph} names the weight file {location!r}; weights must lie beside the graph")
    paths = [folder / location for folder in beside]
    path = next((path for path in paths if os.path.lexists(path)), paths[0])
    try:
        target = path.resolve(strict=True)
    except FileNotFoundError as error:
        leads = f" leads to {path.resolve()}, which" if path.is_symlink() else ""
        raise FilesError(f"{path}{leads} does not exist; {graph.name} keeps weights there") from error
    except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle
        raise FilesUnreadable(f"{path} cannot be read: {error}") from error
    if not any(target.is_relative_to(root) for root in roots):
        raise FilesError(
            f"{path} leads to {target}, outside the repository and the folders that links of the model, of its version "
            "and of its graph lead to"
        )
    target = follow_link_text(target, roots)
    if not target.is_file():
        raise FilesError(f"{path} is not a file; {graph.name} keeps weights there")
    return target


def _is_beside(location: str) -> bool:
    """Whether the path in a graph names a file in the graph's folder or below it."""
    path = Path(location)
    return bool(location) and not path.anchor and ".." not in path.parts and "\0" not in location


def _map(path: Path) -> mmap.mmap:
    try:
        with path.open("rb") as file:
            if not os.fstat(file.fileno()).st_size:
                raise FilesError(f"{path} is empty")
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise FilesUnreadable(f"{path} cannot be read: {error.strerror}") from error
    check_content(path, content)
    return content
