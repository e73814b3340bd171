"""Digits as people photograph them: MNIST digits as ink on a page, in twenty kinds and turned, made by code.

    photo(digit, kind, seed)   one picture as a file's bytes
    KINDS                      the kinds by name

The digit is written with a pen of the kind's colour and width, onto a page of 900 × 1,200 pixels, and saved as JPEG.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

Floats = NDArray[np.float32]
HEIGHT, WIDTH = 1200, 900
WARM: Floats = np.array([1.0, 0.93, 0.80], np.float32)
WHITE, BLACK = (252.0, 252.0, 250.0), (25.0, 25.0, 30.0)


@dataclass(frozen=True)
class Kind:
    """How a digit is written, lit and photographed. Colours are red, green, blue from 0 to 255; lengths are pixels."""

    paper: tuple[float, float, float] = WHITE
    ink: tuple[float, float, float] = BLACK
    side: int = 420  # of the square of MNIST's 28 × 28 pixels
    centre: tuple[float, float] = (0.5, 0.5)  # x, y as fractions of the page
    thin: float = 0.0  # pixels taken off each side of a stroke, at side 420
    degrees: float = 0.0  # largest rotation, in both directions
    grain: float = 2.0  # standard deviation of the sensor's noise
    texture: float = 0.0  # standard deviation of the ink's density, as of a pencil
    blur: float = 0.6
    quality: int = 85
    light: Callable[[np.random.Generator], Floats] | None = None  # the page's brightness, (HEIGHT, WIDTH, 1 or 3)
    marks: Callable[[Floats, np.random.Generator], None] | None = None  # rules or dirt, drawn onto the page


def soft_shadow(random: np.random.Generator) -> Floats:
    """A shadow whose edge is as wide as the page, from a random side."""
    return _shadow(random, 0.35, softness=260)


def hard_shadow(random: np.random.Generator) -> Floats:
    """A shadow that takes 60 % of the light, with an edge of some 60 pixels."""
    return _shadow(random, 0.6, softness=30)


def indoors(random: np.random.Generator) -> Floats:
    """A shadow in warm light."""
    return _shadow(random, 0.4, softness=260) * WARM


def _shadow(random: np.random.Generator, depth: float, softness: float) -> Floats:
    angle = random.uniform(0, 2 * np.pi)
    y, x = np.ogrid[:HEIGHT, :WIDTH]
    distance = (x - WIDTH / 2) * np.cos(angle) + (y - HEIGHT / 2) * np.sin(angle) - random.uniform(-150, 150)
    light: Floats = 1 - depth * (0.5 + 0.5 * np.tanh(2 / softness * distance.astype(np.float32)))
    return light[:, :, None]


def ruled(page: Floats, random: np.random.Generator) -> None:
    """Blue lines, 60 pixels apart, and a red margin, as in an exercise book."""
    for y in range(int(random.integers(20, 60)), HEIGHT, 60):
        page[y : y + 3] *= np.array([0.72, 0.80, 0.95])
    page[:, 90:93] *= np.array([0.95, 0.65, 0.65])


def squared(page: Floats, random: np.random.Generator) -> None:
    """Grey squares of 40 pixels."""
    offset = int(random.integers(0, 40))
    for position in range(offset, HEIGHT, 40):
        page[position : position + 2] *= 0.82
    for position in range(offset, WIDTH, 40):
        page[:, position : position + 2] *= 0.82


def specks(page: Floats, random: np.random.Generator) -> None:
    """Three dark specks of dirt, 8 to 20 pixels wide."""
    for _ in range(3):
        radius = random.uniform(4, 10)
        y, x = random.uniform(40, HEIGHT - 40), random.uniform(40, WIDTH - 40)
        rows, columns = np.ogrid[:HEIGHT, :WIDTH]
        page[(rows - y) ** 2 + (columns - x) ** 2 < radius**2] = 40.0


KINDS = {
    "white paper": Kind(),
    "scan": Kind(grain=0.5, blur=0.0, quality=95),
    "off-centre": Kind(centre=(0.28, 0.25)),
    "small": Kind(side=150),
    "large": Kind(side=840),
    "thin pen": Kind(thin=9.0),
    "blue pen": Kind(ink=(40.0, 60.0, 180.0)),
    "red pen": Kind(ink=(200.0, 40.0, 50.0)),
    "green pen": Kind(ink=(40.0, 150.0, 70.0)),
    "pencil": Kind(ink=(130.0, 130.0, 132.0), texture=0.25),
    "blackboard": Kind(paper=(45.0, 60.0, 52.0), ink=(225.0, 225.0, 220.0), texture=0.2),
    "grey paper 200": Kind(paper=(200.0, 200.0, 198.0)),
    "grey paper 180": Kind(paper=(180.0, 180.0, 178.0)),
    "grey paper 160": Kind(paper=(160.0, 160.0, 158.0)),
    "soft shadow": Kind(light=soft_shadow),
    "shadow of 60 %": Kind(light=hard_shadow),
    "ruled paper": Kind(marks=ruled),
    "squared paper": Kind(marks=squared),
    "indoors": Kind(paper=(190.0, 190.0, 188.0), light=indoors, grain=5.0),
    "specks": Kind(marks=specks),
    "turned by 15°": Kind(degrees=15.0),
}
# Kinds that differ from a clean scan only in place, size, pen or corners.
CLEAN = ("white paper", "scan", "off-centre", "small", "large", "thin pen", "blue pen", "red pen", "green pen")
TURNED = "turned by 15°"


def photo(digit: NDArray[np.uint8], kind: Kind, seed: int) -> bytes:
    """The digit, light on dark uint8 (28, 28), as a JPEG file of that kind."""
    random = np.random.default_rng(seed)
    page = np.empty((HEIGHT, WIDTH, 3), np.float32)
    page[:] = kind.paper
    if kind.marks:
        kind.marks(page, random)
    density = _density(digit, kind, random)[:, :, None]
    page += density * (np.array(kind.ink, np.float32) - page)
    if kind.light:
        page *= kind.light(random)
    picture = Image.fromarray(page.clip(0, 255).astype(np.uint8))
    if kind.blur:
        picture = picture.filter(ImageFilter.GaussianBlur(kind.blur))
    noise = kind.grain * random.standard_normal((HEIGHT, WIDTH, 1), np.float32)
    file = io.BytesIO()
    Image.fromarray((np.asarray(picture) + noise).clip(0, 255).astype(np.uint8)).save(
        file, "JPEG", quality=kind.quality
    )
    return file.getvalue()


def _density(digit: NDArray[np.uint8], kind: Kind, random: np.random.Generator) -> Floats:
    """The ink's density from 0 to 1 on the page, with crisp strokes."""
    turned = Image.fromarray(digit).resize((kind.side, kind.side), Image.Resampling.BICUBIC)
    if kind.degrees:
        angle = random.uniform(-kind.degrees, kind.degrees)
        turned = turned.rotate(angle, Image.Resampling.BICUBIC)
    # A pen's stroke has an edge of a few pixels, not the wide slope of an enlarged digit.
    grey: Floats = np.asarray(turned.filter(ImageFilter.GaussianBlur(kind.side / 84)), np.float32) / np.float32(255)
    strokes: Floats = ((grey - 0.45) * 6 + 0.5).clip(0, 1)
    if kind.thin:
        width = 2 * round(kind.thin * kind.side / 420) + 1
        thinned = Image.fromarray((strokes * 255).astype(np.uint8)).filter(ImageFilter.MinFilter(width))
        strokes = np.maximum(np.asarray(thinned, np.float32) / 255, strokes * _ridge(grey))
    if kind.texture:
        strokes *= (1 - np.abs(random.normal(0, kind.texture, strokes.shape))).clip(0, 1)
    density = np.zeros((HEIGHT, WIDTH), np.float32)
    left = int(np.clip(kind.centre[0] * WIDTH - kind.side / 2, 0, WIDTH - kind.side))
    top = int(np.clip(kind.centre[1] * HEIGHT - kind.side / 2, 0, HEIGHT - kind.side))
    density[top : top + kind.side, left : left + kind.side] = strokes
    return density


def _ridge(grey: Floats) -> Floats:
    """1 in the middle of strokes, so that thinning never breaks one."""
    return (grey > 0.72).astype(np.float32)
