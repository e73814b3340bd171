"""The pictures of tests/pictures: what make.py makes, and small."""

import io
import re

import numpy as np
from PIL import Image

from tests.pictures.make import FILES, FOLDER, make

MAX_BYTES = 120_000


def test_the_pictures_are_what_make_py_makes() -> None:
    """Pixels within what another version of the JPEG library may change."""
    made = make()
    assert set(made) == {path.name for path in FILES}
    for name, data in made.items():
        with Image.open(io.BytesIO(data)) as expected, Image.open(FOLDER / name) as stored:
            assert (stored.size, stored.mode, stored.getexif()) == (expected.size, expected.mode, expected.getexif())
            difference = np.abs(np.asarray(stored, np.int16) - np.asarray(expected, np.int16))
        assert difference.mean() < 1, name


def test_the_pictures_are_small() -> None:
    assert sum(path.stat().st_size for path in FILES) < MAX_BYTES


def test_every_picture_is_in_the_table_with_its_digit() -> None:
    rows = re.findall(r"^\| `(\S+)` \|.*\| (.*?) \|$", (FOLDER / "README.md").read_text(), re.MULTILINE)
    assert [FOLDER / name for name, _ in rows] == FILES
    for name, expected in rows:
        digit = re.search(r"\d", name)
        assert expected.startswith(digit[0] if digit else "`no drawing found`")
