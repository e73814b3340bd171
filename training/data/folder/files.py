"""The tree of folders and picture files below a path, and how many files of which kind are passed over.

Hidden files and those that systems and programs leave are no pictures of the user's: macOS's ._NAME and __MACOSX, a
notebook's .ipynb_checkpoints, a NAS's @eaDir, Windows' Thumbs.db. Folders that are links are followed, but not back to
a folder that holds them.

Not here: what the folders mean (layout.py), the content of files (reading.py).
"""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from service.pictures.files import SUFFIXES
from training.errors import DataError

# In lower case; names that begin with a full stop are passed over as well.
SYSTEM_NAMES = frozenset((
    "__macosx", "@eadir", "#recycle", "#snapshot", "$recycle.bin", "system volume information", "lost+found",
    "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__pycache__",
))  # fmt: skip
HIDDEN = "hidden or of the system"
LINKS_BACK = "links to a folder above"
TOO_DEEP = "folders too deep"
# Levels of folders below the path.
MAX_DEPTH = 32
# Files, folders or classes that one message names; the others are counted.
MAX_NAMED = 10


@dataclass(frozen=True)
class Folder:
    """A folder, without what is passed over."""

    path: Path
    pictures: tuple[Path, ...] = ()  # directly in it, by name
    folders: tuple["Folder", ...] = ()  # by name
    is_empty: bool = False  # holds nothing at all but what is hidden or of the system

    @property
    def name(self) -> str:
        """Its own name."""
        return self.path.name

    @cached_property
    def has_pictures(self) -> bool:
        """Whether there are pictures in it or in a folder below."""
        return bool(self.pictures) or any(folder.has_pictures for folder in self.folders)

    def all_pictures(self) -> list[Path]:
        """Its pictures and those of all folders below, in order."""
        return sorted(self._walk())

    def _walk(self) -> Iterator[Path]:
        yield from self.pictures
        for folder in self.folders:
            yield from folder._walk()


def scan(path: Path) -> tuple[Folder, Counter[str]]:
    """The tree below `path`, and the number of files and folders that are passed over, by kind.

    Raises:
        DataError: a folder cannot be listed.
    """
    passed: Counter[str] = Counter()
    return _scan(path, passed, ()), passed


def _scan(path: Path, passed: Counter[str], above: tuple[tuple[int, int], ...]) -> Folder:
    """The folder; `above` are device and inode of the folders that hold it."""
    try:
        status = path.stat()
        with os.scandir(path) as listed:
            entries = sorted(listed, key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(
            f"the folder {shown(path)} cannot be listed ({error.strerror}); give yourself access, or move it away"
        ) from error
    here = (*above, (status.st_dev, status.st_ino))
    pictures: list[Path] = []
    folders: list[Folder] = []
    hidden = 0
    for entry in entries:
        if entry.name.startswith(".") or entry.name.casefold() in SYSTEM_NAMES:
            passed[HIDDEN] += 1
            hidden += 1
        elif _is_folder(entry):
            if kind := _reason_to_pass(entry, here):
                passed[kind] += 1
            else:
                folders.append(_scan(Path(entry.path), passed, here))
        elif Path(entry.name).suffix.lower() in SUFFIXES:
            pictures.append(Path(entry.path))
        else:
            passed[shown(Path(entry.name).suffix.lower()) or "without a suffix"] += 1
    return Folder(path, tuple(pictures), tuple(folders), is_empty=len(entries) == hidden)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _reason_to_pass(entry: os.DirEntry[str], above: tuple[tuple[int, int], ...]) -> str:
    if len(above) >= MAX_DEPTH:
        return TOO_DEEP
    if entry.is_symlink():
        status = entry.stat()
        if (status.st_dev, status.st_ino) in above:
            return LINKS_BACK
    return ""


def shown(name: str | Path) -> str:
    """The name as a line that can be printed, whatever its bytes are."""
    text = os.fsencode(name).decode("utf-8", "backslashreplace")
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in text)


def listed(names: Sequence[str], separator: str = ", ") -> str:
    """The first names, and the number of the others."""
    more = [f"and {len(names) - MAX_NAMED:,} more"] if len(names) > MAX_NAMED else []
    return separator.join([*names[:MAX_NAMED], *more])
