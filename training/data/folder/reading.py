"""Reads picture files as images, in threads, with progress; what an earlier run read comes from the cache.

Threads are enough: Pillow's decoders release the GIL, and a HEIC file has a process of its own.
Not here: decoding and fitting, which are the service's (service/pictures); the cache's file (cache.py).
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from service.pictures.files import BadPicture, memory_needed
from service.pictures.fit import Fit
from service.pictures.fitting import fit_file, min_side
from training.data.content import image_digest
from training.data.folder.cache import ImageCache, Key, file_key
from training.data.folder.memory import size
from training.processors import available_processors

Say = Callable[[str], None]
# More threads wait for the GIL, which they hold for a third of the time with small pictures.
MAX_THREADS = 16
# Files that are given to the threads at once.
FILES_AT_ONCE = 512
# Reading that took less than this many seconds is not worth a cache.
WORTH_A_CACHE_SECONDS = 3.0
# Between two lines of progress, without a terminal.
SECONDS_PER_LINE = 15.0
# Pictures that need more memory than this to decode are decoded one at a time.
LARGE_BYTES = 2**28
MAX_FILE_BYTES = 2**30


@dataclass(frozen=True)
class Pictures:
    """The images of files, and why some have none."""

    images: NDArray[np.uint8]  # (N, H, W, C)
    digests: tuple[bytes | None, ...]  # SHA-256 of each image's pixels; None for a file without one
    problems: dict[Path, str]  # of files that cannot be used


def read_pictures(
    root: Path,
    files: Sequence[Path],
    image_shape: tuple[int, int, int],
    fit: Fit,
    *,
    data_dir: Path,
    say: Say | None = None,
) -> Pictures:
    """Read the files, which are below `root`, as images of `image_shape` (H, W, C).

    `say` gets lines of progress; without it, nothing is shown. What was read is cached below `data_dir`, also if the
    job is interrupted meanwhile.
    """
    started = time.perf_counter()
    cache = ImageCache(data_dir, root, image_shape, fit)
    keys = [_key(root, file) for file in files]
    images = np.zeros((len(files), *image_shape), np.uint8)
    digests = cache.fill(keys, images)
    missing = [index for index, digest in enumerate(digests) if digest is None]
    problems: dict[Path, str] = {}
    try:
        outcomes = _in_threads(_Reader(files, images, fit), missing)
        for index, outcome in _with_progress(zip(missing, outcomes, strict=True), len(missing), say):
            if isinstance(outcome, str):
                problems[files[index]] = outcome
            else:
                digests[index] = outcome
    finally:
        seconds = time.perf_counter() - started
        if len(missing) > len(problems) and seconds > WORTH_A_CACHE_SECONDS:
            failure = cache.save(keys, images, digests)
            if failure and say:
                say(f"images are not cached, and the next run reads the pictures again: {failure}")
    if say:
        cached = len(files) - len(missing)
        say(f"read {len(files):,} pictures in {seconds:.1f} s, {cached:,} of them from the cache")
    return Pictures(images, tuple(digests), problems)


class _Reader:
    """Reads one file into its row of the images; the digest of the image, or why there is none."""

    def __init__(self, files: Sequence[Path], images: NDArray[np.uint8], fit: Fit) -> None:
        self._files, self._images, self._fit = files, images, fit
        self._shape = (images.shape[1], images.shape[2], images.shape[3])
        self._large = threading.Lock()

    def __call__(self, index: int) -> bytes | str:
        file = self._files[index]
        try:
            if not file.is_file():  # a pipe would be waited for
                raise BadPicture("no file is there" if not file.exists() else "expected a file")
            if (length := file.stat().st_size) > MAX_FILE_BYTES:
                raise BadPicture(f"expected a file of at most {size(MAX_FILE_BYTES)}, got {size(length)}")
            data = file.read_bytes()
            is_large = memory_needed(data, min_side(self._shape, self._fit)) > LARGE_BYTES
            with self._large if is_large else contextlib.nullcontext():
                self._images[index] = fit_file(data, self._shape, self._fit)
        except OSError as error:
            return error.strerror or str(error)
        except BadPicture as error:
            return str(error)
        return image_digest(self._images[index])


def threads() -> int:
    """One for each processor that this process may use."""
    return min(available_processors(), MAX_THREADS)


def _in_threads(read: _Reader, indices: Sequence[int]) -> Iterator[bytes | str]:
    """The outcome of each index, in order; those that wait are given up if the caller is interrupted."""
    with ThreadPoolExecutor(threads()) as pool:
        try:
            for start in range(0, len(indices), FILES_AT_ONCE):
                yield from pool.map(read, indices[start : start + FILES_AT_ONCE])
        finally:
            pool.shutdown(cancel_futures=True)


def _with_progress(
    outcomes: Iterable[tuple[int, bytes | str]], total: int, say: Say | None
) -> Iterator[tuple[int, bytes | str]]:
    """The same outcomes: a bar moves in a terminal, or a line comes from time to time."""
    console = Console()
    if say is None or not console.is_terminal:
        yield from _with_lines(outcomes, total, say)
        return
    columns = TextColumn("reading pictures"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(compact=True)
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=total)
        for outcome in outcomes:
            yield outcome
            bar.advance(task)


def _with_lines(
    outcomes: Iterable[tuple[int, bytes | str]], total: int, say: Say | None
) -> Iterator[tuple[int, bytes | str]]:
    started = last = time.perf_counter()
    for done, outcome in enumerate(outcomes, 1):
        yield outcome
        now = time.perf_counter()
        if say and now - last > SECONDS_PER_LINE:
            last = now
            say(f"read {done:,} of {total:,} pictures, {done / (now - started):,.0f}/s")


def _key(root: Path, file: Path) -> Key | None:
    try:
        return file_key(root, file)
    except OSError:
        return None
