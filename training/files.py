"""Files that are there whole or not at all, even if the power goes."""

import os
from pathlib import Path


def write(path: Path, content: bytes) -> None:
    """Write the file and see it on the disk."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def write_atomically(path: Path, content: bytes) -> None:
    """Put the content in the file's place by one rename."""
    staging = path.with_name(f".{path.name}.tmp")
    try:
        write(staging, content)
        staging.rename(path)
    finally:
        staging.unlink(missing_ok=True)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make a rename in the folder outlast a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
