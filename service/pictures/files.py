"""Picture files and raw pixels, decoded within limits.

Owns the file formats and the limit on pixels. Not here: fitting pictures to a model's input (fits.py).
"""

import io

from PIL import Image, ImageOps, UnidentifiedImageError

FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
# Checked before decoding, because a file of kilobytes can decode to gigabytes of pixels.
MAX_PIXELS = 2**24
Image.MAX_IMAGE_PIXELS = None  # turns off Pillow's own limit; MAX_PIXELS replaces it
MODES = {1: "L", 3: "RGB", 4: "RGBA"}


class BadPicture(Exception):
    """The picture cannot be used; the message says what was expected and what came."""


def decode(data: bytes, min_side: int | None = None) -> Image.Image:
    """The picture in a file's bytes, rotated as its EXIF orientation says.

    If `min_side` is given, the picture may come at reduced size: neither side is then shorter than `min_side`, unless
    the file's is.

    Raises:
        BadPicture: the file has none of the formats, is damaged, or has too many pixels.
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
            _check_size(*picture.size)
            if min_side:
                picture.draft(None, (min_side, min_side))  # JPEG: decodes at a half, a quarter or an eighth of the size
            picture.load()
            return ImageOps.exif_transpose(picture)
    except UnidentifiedImageError as error:
        expected = f"{', '.join(FORMATS[:-1])} or {FORMATS[-1]}"
        raise BadPicture(f"expected a {expected} file, got {_describe(data)}") from error
    except BadPicture:
        raise
    except Exception as error:  # Pillow's decoders raise many types for damaged files
        raise BadPicture(f"the file is damaged: {error}") from error


def from_pixels(pixels: bytes, width: int, height: int, channels: int) -> Image.Image:
    """The picture of raw pixels, row by row, one byte a channel.

    Raises:
        BadPicture: a size is invalid or too large, or the sizes do not match the number of bytes.
    """
    if channels not in MODES:
        raise BadPicture(f"channels expected 1, 3 or 4, got {channels}")
    if not (width and height):
        raise BadPicture(f"width and height expected at least 1, got {width} × {height}")
    _check_size(width, height)
    if len(pixels) != width * height * channels:
        raise BadPicture(f"pixels expected {width} × {height} × {channels} bytes, got {len(pixels)}")
    return Image.frombytes(MODES[channels], (width, height), pixels)


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise BadPicture(f"an image may have at most {MAX_PIXELS} pixels, this one has {width} × {height}")


def _describe(data: bytes) -> str:
    return f"{len(data)} bytes that begin with {data[:8]!r}" if data else "nothing"
