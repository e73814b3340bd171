"""Picture files and raw pixels, decoded within limits.

Owns the file formats, the limit on pixels and the memory that decoding takes. Not here: the signatures of formats
(signatures.py), the conversion to 8 bits (opaque.py), fitting pictures to a model's input (fitting.py).
"""

import io
from typing import cast

from PIL import ExifTags, Image, ImageFile, ImageOps, JpegImagePlugin, TiffImagePlugin

from service.pictures.opaque import STRIP_PIXELS, UnknownMode, reduced, reduction
from service.pictures.signatures import describe, format_of

# As people name them. GIF, TIFF and others of several frames: the first.
FORMATS = ("PNG", "JPEG", "WebP", "HEIC", "AVIF", "GIF", "BMP", "TIFF")
SUFFIXES = (
    ".png", ".jpg", ".jpeg", ".jfif", ".webp", ".heic", ".heif", ".hif", ".avif", ".gif", ".bmp", ".tif", ".tiff"
)  # fmt: skip
# Takes a phone's 50 megapixels. Checked before decoding, because a file of kilobytes can decode to gigabytes of pixels.
MAX_PIXELS = 2**26
Image.MAX_IMAGE_PIXELS = None  # turns off Pillow's own limit; MAX_PIXELS replaces it
MODES = {1: "L", 3: "RGB", 4: "RGBA"}
# Bytes a pixel while Pillow holds a picture, by mode; 4 for every other mode.
MODE_BYTES = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2, "I;16L": 2}
# Bytes a pixel at the peak of decoding, measured: these decoders fill buffers of their own, which are then copied.
DECODER_BYTES = {"WEBP": 17, "AVIF": 13, "HEIF": 9}


class BadPicture(Exception):
    """The picture cannot be used; the message says what was expected and what came."""


def decode(data: bytes, min_side: int | None = None) -> Image.Image:
    """The picture in a file's bytes, rotated as its EXIF orientation says.

    If `min_side` is given, the picture comes opaque with 8 bits a channel, and reduced: see opaque.reduced().

    Raises:
        BadPicture: the file has none of the formats, is damaged, or has too many pixels.
    """
    with _open(data) as picture:
        try:
            if min_side:
                factor = reduction(picture.size, min_side)
                picture.draft(None, (max(1, picture.width // factor), max(1, picture.height // factor)))
            picture.load()
            return ImageOps.exif_transpose(reduced(picture, min_side) if min_side else picture)
        except UnknownMode as error:
            raise BadPicture(str(error)) from error
        except Exception as error:  # Pillow's decoders raise many types for damaged files
            raise BadPicture(f"the {_name(picture.format)} file is damaged or cut short") from error


def memory_needed(data: bytes, min_side: int | None = None) -> int:
    """The bytes that decode() takes at its peak beside `data`, estimated from the file's header.

    Raises:
        BadPicture: the file has none of the formats, or has too many pixels.
    """
    with _open(data) as picture:
        pixels = picture.width * picture.height
        coefficients = _coefficients(picture)
        factor = reduction(picture.size, min_side) if min_side else 1
        if min_side:
            picture.draft(None, (max(1, picture.width // factor), max(1, picture.height // factor)))
        decoded = picture.width * picture.height * MODE_BYTES.get(picture.mode, 4)
        decoded = (
            max(decoded, pixels * DECODER_BYTES.get(picture.format or "", 0)) + coefficients + _tiff_bytes(picture)
        )
        # The reduced picture, and the same rotated; without reduction there is only the rotated one.
        after = 8 * (pixels // factor**2) if min_side else 4 * pixels
        copies = len(data) if picture.format in ("JPEG", "MPO", *DECODER_BYTES) else 0
        return decoded + after + copies + 16 * min(pixels, STRIP_PIXELS) + 2**20


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


def _open(data: bytes) -> ImageFile.ImageFile:
    """The file, its header read and its size checked, and nothing decoded.

    Raises:
        BadPicture: the file has none of the formats, or has too many pixels.
    """
    name = format_of(data)
    if name is None:
        raise BadPicture(f"expected a {', '.join(FORMATS[:-1])} or {FORMATS[-1]} file, got {describe(data)}")
    try:
        picture = _heif(data) if name == "HEIF" else Image.open(io.BytesIO(data), formats=(name,))
        if isinstance(picture, TiffImagePlugin.TiffImageFile):
            _check_size(*_tiff_tile(picture))
    except BadPicture:
        raise
    except Exception as error:  # Pillow's parsers raise many types for damaged files
        raise BadPicture(
            f"the {_name(name)} file is damaged or of a rare kind: save the picture again, as PNG or JPEG"
        ) from error
    _check_size(*picture.size)
    return picture


def _heif(data: bytes) -> ImageFile.ImageFile:
    try:
        import pi_heif  # here, because it loads slowly and few pictures need it
    except ImportError as error:
        raise BadPicture("HEIC: save as JPEG, or install pi-heif") from error
    return cast(ImageFile.ImageFile, pi_heif.HeifImageFile(io.BytesIO(data)))


def _coefficients(picture: ImageFile.ImageFile) -> int:
    """The bytes of a JPEG's coefficients, which libjpeg keeps if each comes in several scans; otherwise 0."""
    if not isinstance(picture, JpegImagePlugin.JpegImageFile) or not picture.fp:
        return 0
    # Pillow has read the header of the first scan, whose length is known if it holds all components.
    at = picture.fp.tell() - 8 - 2 * picture.layers
    picture.fp.seek(at)
    if "progressive" not in picture.info and picture.fp.read(2) == b"\xff\xda":
        return 0
    samples = [horizontal * vertical for _, horizontal, vertical, _ in picture.layer]
    return 2 * sum(samples) * picture.width * picture.height // max(samples, default=1)


def _tiff_tile(picture: TiffImagePlugin.TiffImageFile) -> tuple[int, int]:
    """The width and height of the tiles of a TIFF file, or of its strips: libtiff decompresses each as a whole."""
    tags = picture.tag_v2
    rows = min(tags.get(TiffImagePlugin.ROWSPERSTRIP, picture.height), picture.height)
    return tags.get(TiffImagePlugin.TILEWIDTH, picture.width), tags.get(TiffImagePlugin.TILELENGTH, rows)


def _tiff_bytes(picture: ImageFile.ImageFile) -> int:
    """The bytes that a TIFF file takes beside its pixels; otherwise 0."""
    if not isinstance(picture, TiffImagePlugin.TiffImageFile):
        return 0
    tags, (width, height) = picture.tag_v2, _tiff_tile(picture)
    tile = width * height * sum(tags.get(TiffImagePlugin.BITSPERSAMPLE, (1,))) // 8
    turned = 4 * picture.width * picture.height if tags.get(ExifTags.Base.Orientation, 1) > 1 else 0
    return turned + (tile if tags.get(TiffImagePlugin.COMPRESSION, 1) > 1 else 0)


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise BadPicture(
            f"expected at most {MAX_PIXELS:,} pixels, got {width} × {height}: save the picture at a smaller size"
        )


def _name(pillow_format: str | None) -> str:
    return {"WEBP": "WebP", "HEIF": "HEIC", "MPO": "JPEG"}.get(str(pillow_format), str(pillow_format))
