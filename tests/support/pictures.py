"""One picture, written in many ways: the odd files that people have."""

import io
import itertools
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

# The picture's quarters: top left, top right, bottom left, bottom right.
COLOURS = ((220, 40, 40), (40, 200, 60), (50, 60, 210), (230, 220, 90))
WIDTH, HEIGHT = 64, 48
LOSSLESS, LOSSY = 2, 12  # tolerances, in levels of 256


@dataclass(frozen=True)
class OddFile:
    """A file, the picture that it shows (height, width, 3), and how far a pixel's mean may be from it."""

    data: bytes
    shows: NDArray[np.uint8]
    tolerance: int


def four_colours() -> Image.Image:
    """The picture, 64 × 48, mode RGB."""
    picture = Image.new("RGB", (WIDTH, HEIGHT))
    for (y, x), colour in zip(itertools.product((0, HEIGHT // 2), (0, WIDTH // 2)), COLOURS, strict=True):
        picture.paste(colour, (x, y, x + WIDTH // 2, y + HEIGHT // 2))
    return picture


def encoded(picture: Image.Image, form: str = "PNG", **options: object) -> bytes:
    """The picture as a file."""
    file = io.BytesIO()
    picture.save(file, form, **options)
    return file.getvalue()


def png(width: int, height: int, *, rows: bytes, depth: int = 8, colour: int = 0, interlaced: bool = False) -> bytes:
    """A PNG file of these filtered rows, whose header claims this size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def odd_files() -> dict[str, OddFile]:
    """By name: every mode, structure and format of a file that the service and the training job take."""
    parts = (_png_files, _jpeg_files, _turned_files, _tiff_files, _files_of_other_formats, _files_of_odd_sizes)
    return {name: file for part in parts for name, file in part()}


def _odd(data: bytes, picture: Image.Image, tolerance: int = LOSSLESS) -> OddFile:
    return OddFile(data, np.asarray(picture.convert("RGB")), tolerance)


def _without_last_colour() -> Image.Image:
    """The picture with its last quarter white, as a transparent quarter becomes."""
    picture = four_colours()
    picture.paste("white", (WIDTH // 2, HEIGHT // 2, WIDTH, HEIGHT))
    return picture


def _cut_out() -> Image.Image:
    """The picture with its last quarter transparent."""
    picture = four_colours().convert("RGBA")
    picture.paste((*COLOURS[3], 0), (WIDTH // 2, HEIGHT // 2, WIDTH, HEIGHT))
    return picture


def _png_files() -> Iterator[tuple[str, OddFile]]:
    picture, cut = four_colours(), _without_last_colour()
    grey, black_white = picture.convert("L"), picture.convert("1", dither=Image.Dither.NONE)
    palette = picture.quantize(4)
    last = palette.getpixel((WIDTH - 1, HEIGHT - 1))
    yield "1-bit.png", _odd(encoded(black_white), black_white)
    yield "grey.png", _odd(encoded(grey), grey)
    yield "palette.png", _odd(encoded(palette), picture)
    yield "palette and transparency.png", _odd(encoded(palette, transparency=last), cut)
    yield "colour and a transparent colour.png", _odd(encoded(picture, transparency=COLOURS[3]), cut)
    yield "alpha.png", _odd(encoded(_cut_out()), cut)
    yield "grey and alpha.png", _odd(encoded(_cut_out().convert("LA")), cut.convert("L"))
    deep = np.asarray(grey).astype(np.uint16) * 257 & 0xFF7F
    yield "16-bit grey.png", _odd(encoded(Image.fromarray(deep)), grey)
    pixels = np.asarray(picture)
    rows = [b"\0" + (row.astype(">u2") * 257).tobytes() for row in pixels]
    yield "16-bit colour.png", _odd(png(WIDTH, HEIGHT, rows=b"".join(rows), depth=16, colour=2), picture)
    # Adam7: the first column, first row and steps of each pass.
    passes = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
    rows = [b"\0" + row.tobytes() for x, y, dx, dy in passes for row in pixels[y::dy, x::dx]]
    yield "interlaced.png", _odd(png(WIDTH, HEIGHT, rows=b"".join(rows), colour=2, interlaced=True), picture)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ")).tobytes()
    yield "colour profile.png", _odd(encoded(picture, icc_profile=profile), picture)


def _jpeg_files() -> Iterator[tuple[str, OddFile]]:
    picture = four_colours()
    files = {
        "baseline.jpg": encoded(picture, "JPEG"),
        "colour 4:4:4.jpg": encoded(picture, "JPEG", subsampling="4:4:4"),
        "colour 4:2:0.jpg": encoded(picture, "JPEG", subsampling="4:2:0"),
        "progressive.jpg": encoded(picture, "JPEG", progressive=True),
        "restart markers.jpg": encoded(picture, "JPEG", restart_marker_rows=1),
        "inks.jpg": encoded(picture.convert("CMYK"), "JPEG"),
        "second picture.jpg": encoded(picture, "MPO", save_all=True, append_images=[Image.new("RGB", picture.size)]),
        "without its end.jpg": encoded(picture, "JPEG")[:-2],
        "followed by a video.jpg": encoded(picture, "JPEG") + b"\0\0\0\x18ftypmp42" + bytes(range(256)) * 99,
    }
    for name, data in files.items():
        yield name, _odd(data, picture, LOSSY)
    grey = picture.convert("L")
    yield "grey.jpg", _odd(encoded(grey, "JPEG"), grey, LOSSY)


def _turned_files() -> Iterator[tuple[str, OddFile]]:
    """The orientations of EXIF; a viewer mirrors, turns or does both."""
    pixels = np.asarray(four_colours())
    shown = {
        1: pixels, 2: pixels[:, ::-1], 3: pixels[::-1, ::-1], 4: pixels[::-1], 5: pixels.transpose(1, 0, 2),
        6: np.rot90(pixels, -1), 7: np.rot90(pixels[:, ::-1], -1), 8: np.rot90(pixels),
    }  # fmt: skip
    for orientation, shows in shown.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        for form, tolerance in (("JPEG", LOSSY), ("PNG", LOSSLESS), ("WebP", LOSSY), ("TIFF", LOSSLESS)):
            data = encoded(four_colours(), form, exif=exif.tobytes())
            yield f"orientation {orientation}.{form.lower()}", OddFile(data, shows, tolerance)
    palette = encoded(four_colours().quantize(4), exif=exif.tobytes())
    yield "orientation of a palette.png", OddFile(palette, shown[8], LOSSLESS)


def _tiff_files() -> Iterator[tuple[str, OddFile]]:
    picture = four_colours()
    grey, black_white = picture.convert("L"), picture.convert("1", dither=Image.Dither.NONE)
    for compression in ("raw", "packbits", "tiff_lzw", "tiff_adobe_deflate"):
        yield f"{compression}.tif", _odd(encoded(picture, "TIFF", compression=compression), picture)
    yield "jpeg.tif", _odd(encoded(picture, "TIFF", compression="jpeg"), picture, LOSSY)
    yield "fax.tif", _odd(encoded(black_white, "TIFF", compression="group4"), black_white)
    yield "1-bit.tif", _odd(encoded(black_white, "TIFF"), black_white)
    yield "alpha.tif", _odd(encoded(_cut_out(), "TIFF"), _without_last_colour())
    yield "inks.tif", _odd(encoded(picture.convert("CMYK"), "TIFF"), picture)
    yield "YCbCr.tif", _odd(encoded(picture.convert("YCbCr"), "TIFF"), picture, LOSSY)
    lab = ImageCms.profileToProfile(
        picture, ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
    )
    assert lab
    yield "LAB.tif", _odd(encoded(lab, "TIFF"), picture, LOSSY)
    deep = np.asarray(grey).astype(np.uint16) * 257
    yield "16-bit.tif", _odd(encoded(Image.fromarray(deep), "TIFF"), grey)
    big_endian = Image.frombytes("I;16B", grey.size, deep.astype(">u2").tobytes())
    yield "16-bit big-endian.tif", _odd(encoded(big_endian, "TIFF"), grey)
    pages = encoded(picture, "TIFF", save_all=True, append_images=[Image.new("RGB", (9, 9))], compression="tiff_lzw")
    yield "pages.tif", _odd(pages, picture)


def _files_of_other_formats() -> Iterator[tuple[str, OddFile]]:
    picture, palette, cut = four_colours(), four_colours().quantize(4), _without_last_colour()
    yield "colour.bmp", _odd(encoded(picture, "BMP"), picture)
    yield "palette.bmp", _odd(encoded(palette, "BMP"), picture)
    yield (
        "moving.gif",
        _odd(encoded(palette, "GIF", save_all=True, append_images=[Image.new("P", palette.size)]), picture),
    )
    last = palette.getpixel((WIDTH - 1, HEIGHT - 1))
    yield "transparent.gif", _odd(encoded(palette, "GIF", transparency=last), cut)
    yield "lossy.webp", _odd(encoded(picture, "WEBP"), picture, LOSSY)
    yield "alpha.webp", _odd(encoded(_cut_out(), "WEBP", lossless=True, exact=True), cut)
    moving = encoded(picture, "WEBP", save_all=True, append_images=[Image.new("RGB", picture.size)], lossless=True)
    yield "moving.webp", _odd(moving, picture)
    yield "colour.avif", _odd(encoded(picture, "AVIF"), picture, LOSSY)
    yield "alpha.avif", _odd(encoded(_cut_out(), "AVIF"), cut, LOSSY)
    # Written by pillow-heif, whose encoder is not installed here; turned by the container, as phones do.
    heic = Path(__file__).with_name("four_colours_turned.heic").read_bytes()
    yield "turned.heic", _odd(heic, picture.transpose(Image.Transpose.ROTATE_270), LOSSY)


def _files_of_odd_sizes() -> Iterator[tuple[str, OddFile]]:
    for size in ((1, 1), (20_000, 1), (1, 20_000)):
        picture = Image.new("RGB", size, COLOURS[0])
        for form in ("PNG", "JPEG", "TIFF", "GIF"):
            tolerance = LOSSY if form == "JPEG" else LOSSLESS
            yield f"{size[0]} × {size[1]}.{form.lower()}", _odd(encoded(picture, form), picture, tolerance)
