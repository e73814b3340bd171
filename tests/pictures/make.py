"""Makes the pictures of this folder: `python -m tests.pictures.make` writes them here.

Each shows a digit of the test part of training/data/samples/mnist-sample.npz, which no network was trained on.
"""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tests.support.paths import ROOT
from tests.support.photos import KINDS, Kind, photo, soft_shadow

FOLDER = Path(__file__).parent
CLEAN = "clean-7.png"
# The index of the digit in the test part, and how it is written and photographed.
PAGES = {
    "page-2.jpg": (47, KINDS["blue pen"]),
    "shadow-5.jpg": (52, replace(KINDS["grey paper 180"], light=soft_shadow)),
    "squared-9.jpg": (151, KINDS["squared paper"]),  # of an odd form
    "phone-3.jpg": (32, KINDS["indoors"]),
}
EMPTY, EMPTY_PAGE = "empty.jpg", replace(KINDS["grey paper 200"], light=soft_shadow)
# A phone held upright stores its sensor's pixels, and that they are to be turned by 90° clockwise.
SIDEWAYS = "phone-3.jpg"
ORIENTATION, CLOCKWISE = 0x0112, 6
FILES = [FOLDER / name for name in sorted((CLEAN, EMPTY, *PAGES))]


def make() -> dict[str, bytes]:
    """The files by name."""
    with np.load(ROOT / "training/data/samples/mnist-sample.npz") as arrays:
        digits: NDArray[np.uint8] = arrays["test_images"]
    pages = {
        name: _page(digits[index], kind, seed=index, sideways=name == SIDEWAYS) for name, (index, kind) in PAGES.items()
    }
    nothing = np.zeros_like(digits[0])
    return {CLEAN: _file(Image.fromarray(digits[0]), "PNG"), EMPTY: _page(nothing, EMPTY_PAGE, seed=0)} | pages


def _page(digit: NDArray[np.uint8], kind: Kind, *, seed: int, sideways: bool = False) -> bytes:
    """The photograph at half its size, to keep this repository small."""
    picture = Image.open(io.BytesIO(photo(digit, kind, seed))).reduce(2)
    exif = Image.Exif()
    if sideways:
        picture = picture.transpose(Image.Transpose.ROTATE_90)
        exif[ORIENTATION] = CLOCKWISE
    return _file(picture, "JPEG", quality=80, exif=exif)


def _file(picture: Image.Image, form: str, **options: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, form, **options)
    return file.getvalue()


if __name__ == "__main__":
    for name, data in make().items():
        (FOLDER / name).write_bytes(data)
