"""Pictures are read in threads, cached, and named if they cannot be read."""

import io
import os
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from service.pictures.fit import NONE, RESIZE, Fit
from service.pictures.fitting import fit_file
from training.data.folder import cache, reading
from training.data.folder.reading import Pictures, read_pictures

SHAPE, FIT = (16, 16, 3), Fit(RESIZE)


@pytest.fixture(autouse=True)
def everything_is_cached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "WORTH_A_CACHE_SECONDS", 0)


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Six noisy JPEGs."""
    random, folder = np.random.default_rng(0), tmp_path / "pictures"
    folder.mkdir()
    for number in range(6):
        Image.fromarray(random.integers(0, 256, (30, 40, 3), np.uint8)).save(folder / f"{number}.jpg")
    return sorted(folder.iterdir())


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The content of each file that is decoded."""
    contents: list[bytes] = []

    def count(data: bytes, shape: tuple[int, int, int], fit: Fit) -> object:
        contents.append(data)
        return fit_file(data, shape, fit)

    monkeypatch.setattr(reading, "fit_file", count)
    return contents


def read(files: Sequence[Path], fit: Fit = FIT, **options: object) -> Pictures:
    root = files[0].parent
    return read_pictures(root, files, SHAPE, fit, data_dir=root.parent / "data", **options)  # type: ignore[arg-type]


def cache_file(files: Sequence[Path]) -> Path:
    (path,) = (files[0].parents[1] / "data" / cache.FOLDER).iterdir()
    return path


def test_the_images_are_those_that_the_service_makes(files: list[Path]) -> None:
    images = read(files).images
    for file, image in zip(files, images, strict=True):
        np.testing.assert_array_equal(image, fit_file(file.read_bytes(), SHAPE, FIT))


def test_a_second_run_decodes_only_what_is_new_or_changed(files: list[Path], decoded: list[bytes]) -> None:
    first = read(files)
    assert len(decoded) == 6
    again = read(files)
    assert len(decoded) == 6 and again.digests == first.digests
    np.testing.assert_array_equal(again.images, first.images)
    new = files[0].with_name("7.jpg")
    new.write_bytes(files[1].read_bytes())
    status = files[2].stat()
    files[2].write_bytes(files[3].read_bytes()[: status.st_size].ljust(status.st_size, b"\0"))
    os.utime(files[2], ns=(status.st_atime_ns, status.st_mtime_ns))  # as a copy that keeps times does
    changed = read([*files, new])
    assert len(decoded) == 8 and changed.digests[1] == changed.digests[-1]
    assert changed.digests[2] != first.digests[2]


def test_another_fit_has_a_cache_of_its_own(files: list[Path], decoded: list[bytes]) -> None:
    read(files)
    assert len(read(files, Fit(NONE)).problems) == 6
    assert len(decoded) == 12


@pytest.mark.parametrize("damage", ["a flipped bit", "cut short", "empty", "not a cache", "another shape"])
def test_a_damaged_cache_is_read_again_and_replaced(files: list[Path], decoded: list[bytes], damage: str) -> None:
    first, path = read(files), cache_file(files)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    if damage == "another shape":
        np.save(path, np.zeros(3))
    else:
        spoilt = {"a flipped bit": bytes(content), "cut short": bytes(content[:-100]), "empty": b""}
        path.write_bytes(spoilt.get(damage, b"not a cache"))
    decoded.clear()
    again = read(files)
    assert len(decoded) == (1 if damage == "a flipped bit" else 6)
    np.testing.assert_array_equal(again.images, first.images)
    decoded.clear()
    read(files)
    assert not decoded


def test_an_interrupted_run_keeps_what_it_read(
    files: list[Path], decoded: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "FILES_AT_ONCE", 2)

    def interrupt(line: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(reading, "SECONDS_PER_LINE", 0)
    with pytest.raises(KeyboardInterrupt):
        read(files, say=interrupt)
    kept = 6 - len(decoded)
    assert kept >= 3, "the files after it were not decoded"
    decoded.clear()
    read(files)
    assert len(decoded) == 5, "the first one is cached"


def test_a_cache_that_cannot_be_written_costs_time_alone_and_is_said(files: list[Path]) -> None:
    (files[0].parents[1] / "data").write_text("a file where the folder should be")
    lines: list[str] = []
    assert not read(files, say=lines.append).problems
    assert any("images are not cached, and the next run reads the pictures again: " in line for line in lines)


def test_a_quick_reading_is_not_cached(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "WORTH_A_CACHE_SECONDS", 1000)
    read(files)
    assert not (files[0].parents[1] / "data").exists()


def test_the_oldest_cache_files_make_room_and_what_killed_jobs_left_is_deleted(
    files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = files[0].parents[1] / "data" / cache.FOLDER
    folder.mkdir(parents=True)
    for age, name in enumerate(("new.npy", "old.npy", "left.tmp", "being written.tmp")):
        (folder / name).write_bytes(bytes(4000))
        os.utime(folder / name, (time.time() - age, time.time() - age))
    os.utime(folder / "left.tmp", (0, 0))
    monkeypatch.setattr(cache, "MAX_BYTES", 4000 + 6 * (64 + 16 * 16 * 3))
    read(files)
    names = {path.name for path in folder.iterdir()}
    assert {"new.npy", "being written.tmp"} < names and len(names) == 3


def test_the_progress_is_said_without_a_terminal(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "SECONDS_PER_LINE", 0)
    lines: list[str] = []
    read(files, say=lines.append)
    assert lines[2].startswith("read 3 of 6 pictures, ") and lines[-1].endswith(" s, 0 of them from the cache")
    lines.clear()
    read(files, say=lines.append)
    assert len(lines) == 1 and lines[0].endswith(" s, 6 of them from the cache")


def test_a_bar_moves_in_a_terminal(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO()
    monkeypatch.setattr(reading, "Console", lambda: Console(file=terminal, force_terminal=True, width=80))
    lines: list[str] = []
    read(files, say=lines.append)
    assert "reading pictures" in terminal.getvalue() and "6/6" in terminal.getvalue() and len(lines) == 1
    quiet = io.StringIO()
    monkeypatch.setattr(reading, "Console", lambda: Console(file=quiet, force_terminal=True))
    cache_file(files).unlink()
    read(files)
    assert not quiet.getvalue()


def test_what_is_no_readable_file_is_a_problem_and_is_not_waited_for(
    files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = files[0].parent
    monkeypatch.setattr(reading, "MAX_FILE_BYTES", 10_000)
    os.mkfifo(folder / "pipe.png")
    (folder / "empty.png").touch()
    (folder / "gone.png").symlink_to("nowhere")
    (folder / "large.png").write_bytes(bytes(10_001))
    (folder / "page.png").write_text("<html>404</html>")
    bad = [folder / f"{name}.png" for name in ("pipe", "empty", "gone", "large", "page")]
    found = read([*files, *bad])
    assert set(found.problems) == set(bad) and [digest is None for digest in found.digests] == [False] * 6 + [True] * 5
    assert "expected a file" in found.problems[bad[0]] and "no file is there" in found.problems[bad[2]]
    assert "at most 0.0 MiB" in found.problems[bad[3]]


def test_a_file_that_may_not_be_read_is_a_problem(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", denied)
    assert set(read(files).problems.values()) == {"Permission denied"}


def test_large_pictures_are_decoded_one_at_a_time(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "LARGE_BYTES", 0)
    monkeypatch.setattr(reading, "threads", lambda: 4)
    at_once: list[int] = []
    busy = 0

    def slow(data: bytes, shape: tuple[int, int, int], fit: Fit) -> object:
        nonlocal busy
        busy += 1
        at_once.append(busy)
        time.sleep(0.01)
        busy -= 1
        return fit_file(data, shape, fit)

    monkeypatch.setattr(reading, "fit_file", slow)
    read(files)
    assert max(at_once) == 1
    monkeypatch.setattr(reading, "LARGE_BYTES", 2**40)
    cache_file(files).unlink()
    read(files)
    assert max(at_once) > 1, "others are decoded in parallel"
