"""Files that appear whole or not at all, and survive a power failure; folders that can be written."""

import os
import tempfile
from pathlib import Path


def write_and_sync(path: Path, content: bytes) -> None:
    """Write the file and flush it to the disk."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def write_atomically(path: Path, content: bytes) -> None:
    """Write the file or replace it, by one rename."""
    staging = path.with_name(f".{path.name}.tmp")
    try:
        write_and_sync(staging, content)
        staging.rename(path)
    finally:
        staging.unlink(missing_ok=True)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Flush the folder's entries to the disk, so that a rename survives a power failure."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def check_writable(folder: Path) -> None:
    """Find out whether files can be written into a folder, which need not exist yet. Nothing is made or left.

    Raises:
        OSError: they cannot.
    """
    path = folder.absolute()
    with tempfile.TemporaryFile(dir=next(parent for parent in (path, *path.parents) if _exists(parent))):
        pass


def _exists(path: Path) -> bool:
    """Whether the path exists; unlike Path.exists(), a link to nothing does, and what cannot be looked at raises."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True
