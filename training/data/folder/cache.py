"""The cache of images: DATA_DIR/.cache/, one file for each folder, fit and shape, which may be deleted at any time.

An entry is valid for a file of the same path below the folder, size, and times of modification and change. Each image
has its digest, so that a damaged entry is read again. A cache that cannot be read or written costs time, and no run.

    NAME.npy    a record per picture: key, digest of the image, image

Not here: reading pictures (reading.py).
"""

import contextlib
import errno
import functools
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import PIL
from numpy.lib.format import dtype_to_descr, write_array_header_1_0
from numpy.typing import NDArray

from service.pictures import files
from service.pictures.fit import Fit
from training.data.content import image_digest
from training.data.folder.memory import size

# Hidden, so that it is no class folder of pictures in DATA_DIR itself.
FOLDER = ".cache"
# All cache files together; the oldest are deleted first.
MAX_BYTES = 20 * 2**30
# A file that a killed job left half-written is deleted after this time.
STALE_SECONDS = 24 * 3600.0
ROWS_PER_WRITE = 1000

Images = NDArray[np.uint8]
Key = bytes


def file_key(root: Path, file: Path) -> Key:
    """What an entry is valid for.

    Raises:
        OSError: the file is gone or cannot be read.
    """
    status = file.stat()
    name = os.fsencode(file.relative_to(root))
    return hashlib.sha256(b"%b\0%d %d %d" % (name, status.st_size, status.st_mtime_ns, status.st_ctime_ns)).digest()


class ImageCache:
    """The cached images of one folder of pictures."""

    def __init__(self, data_dir: Path, root: Path, image_shape: tuple[int, int, int], fit: Fit) -> None:
        self.folder = data_dir / FOLDER
        made_by = f"{os.fspath(root.resolve())}\0{image_shape}\0{sorted(fit.record().items())}\0{_decoders()}"
        self.path = self.folder / f"{hashlib.sha256(os.fsencode(made_by)).hexdigest()[:32]}.npy"
        self._record = np.dtype([("key", "V32"), ("digest", "V32"), ("image", np.uint8, image_shape)])

    def fill(self, keys: Sequence[Key | None], images: Images) -> list[bytes | None]:
        """Copy what is cached into `images`, (N, H, W, C); the digest of each image that was found, None for others."""
        digests: list[bytes | None] = [None] * len(keys)
        try:
            records = np.load(self.path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError):  # there is none, or it is damaged
            return digests
        if records.dtype != self._record or records.ndim != 1:
            return digests
        rows = {bytes(key): row for row, key in enumerate(records["key"])}
        for index, key in enumerate(keys):
            if key is not None and (row := rows.get(key)) is not None:
                images[index] = records["image"][row]
                if (digest := image_digest(images[index])) == bytes(records["digest"][row]):
                    digests[index] = digest
        return digests

    def save(self, keys: Sequence[Key | None], images: Images, digests: Sequence[bytes | None]) -> str:
        """Replace the cache by these images, those without key or digest left out; the reason if it cannot."""
        kept = [index for index in range(len(keys)) if keys[index] is not None and digests[index] is not None]
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._make_room(len(kept) * self._record.itemsize)
            handle, staging = tempfile.mkstemp(".tmp", dir=self.folder)
            try:
                with os.fdopen(handle, "wb") as file:
                    self._write(file, kept, keys, images, digests)
                Path(staging).rename(self.path)
            finally:
                Path(staging).unlink(missing_ok=True)
        except OSError as error:
            return f"{error.strerror or error}"
        return ""

    def _write(
        self,
        file: BinaryIO,
        kept: Sequence[int],
        keys: Sequence[Key | None],
        images: Images,
        digests: Sequence[bytes | None],
    ) -> None:
        header = {"descr": dtype_to_descr(self._record), "fortran_order": False, "shape": (len(kept),)}
        write_array_header_1_0(file, header)
        for start in range(0, len(kept), ROWS_PER_WRITE):
            rows = kept[start : start + ROWS_PER_WRITE]
            records = np.empty(len(rows), self._record)
            records["key"] = np.array([keys[index] for index in rows], "V32")
            records["digest"] = np.array([digests[index] for index in rows], "V32")
            records["image"] = images[rows]
            file.write(records.tobytes())

    def _make_room(self, needed: int) -> None:
        """Delete the oldest cache files, and what killed jobs left.

        Raises:
            OSError: there is no room.
        """
        for path in self.folder.glob("*.tmp"):
            with contextlib.suppress(OSError):
                if time.time() - path.stat().st_mtime > STALE_SECONDS:
                    path.unlink()
        others = [(path.stat(), path) for path in self.folder.glob("*.npy") if path != self.path]
        total = sum(status.st_size for status, _ in others) + needed
        for status, path in sorted(others, key=lambda other: other[0].st_mtime):
            if total <= MAX_BYTES:
                break
            path.unlink(missing_ok=True)
            total -= status.st_size
        if total > MAX_BYTES or needed > shutil.disk_usage(self.folder).free // 2:
            raise OSError(errno.ENOSPC, f"no room for {size(needed)} in {self.folder}")


@functools.cache
def _decoders() -> str:
    """The version of the code that makes images of files, and of Pillow, whose decoders it calls."""
    sha = hashlib.sha256()
    for path in sorted(Path(files.__file__).parent.glob("*.py")):
        sha.update(path.read_bytes())
    return f"{sha.hexdigest()} Pillow {PIL.__version__}"
