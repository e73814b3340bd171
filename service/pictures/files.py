"""Picture files and raw pixels, decoded within limits.

Owns the file formats, the limits on pixels, and the memory that decoding takes. Not here: the signatures of formats
(signatures.py), the segments of a JPEG (jpeg.py), HEIC's decoder (heic.py), the conversion to 8 bits (opaque.py),
fitting pictures to a model's input (fitting.py).
"""

import contextlib
import io
import warnings
from collections.abc import Iterator

from PIL import ExifTags, Image, ImageFile, JpegImagePlugin, TiffImagePlugin

from service.pictures import heic, jpeg
from service.pictures.opaque import STRIP_PIXELS, UnknownMode, reduced, reduction
from service.pictures.signatures import RAW, describe, format_of

# As people name them. Of several frames or pages, the first is taken.
FORMATS = ("PNG", "JPEG", "WebP", "HEIC", "AVIF", "GIF", "BMP", "TIFF")
SUFFIXES = (
    ".png", ".jpg", ".jpeg", ".jfif", ".webp", ".heic", ".heif", ".hif", ".avif", ".gif", ".bmp", ".tif", ".tiff"
)  # fmt: skip
# Takes a phone's 50 megapixels. Checked before decoding, because a file of kilobytes can decode to gigabytes of pixels.
MAX_PIXELS = 2**26
Image.MAX_IMAGE_PIXELS = None  # turns off Pillow's own limit; MAX_PIXELS replaces it
# Of damaged metadata, one for each tag: Python would print and keep each of them.
warnings.filterwarnings("ignore", module=r"PIL\.")
# Pillow's parsers, which are Python code, may read a file this often: a PNG of 60 MB takes 30,000, one of empty chunks
# 15 million, which is minutes.
MAX_READS = 2**18
# libjpeg's limit.
MAX_JPEG_SIDE = 65_500
# Each scan goes over all pixels again. Encoders write about 10.
MAX_JPEG_SCANS = 100
# Compressions of BMP files that Pillow decodes in Python, byte by byte.
RUN_LENGTHS = (1, 2)
# Tags of TIFF files that tell a camera's raw file, whose first page is a thumbnail.
DNG_VERSION, SUBFILE_TYPE, THUMBNAIL = 50706, 254, 1
MODES = {1: "L", 3: "RGB", 4: "RGBA"}
# Bytes a pixel while Pillow holds a picture, by mode; 4 for every other mode.
MODE_BYTES = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2, "I;16L": 2}
# Bytes a pixel at the peak of decoding, measured: these decoders fill buffers of their own, which are then copied.
DECODER_BYTES = {"WEBP": 17, "AVIF": 13}
# How to turn a picture, by its EXIF orientation.
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class BadPicture(Exception):
    """The picture cannot be used; the message says what was expected and what came."""


class _File(io.BytesIO):
    """A file in memory that can be read MAX_READS times."""

    _reads = 0

    def read(self, size: int | None = -1, /) -> bytes:
        self._reads += 1
        if self._reads > MAX_READS:
            raise OSError(f"more than {MAX_READS} reads")
        return super().read(size)


def decode(data: bytes, min_side: int | None = None) -> Image.Image:
    """The picture in a file's bytes, turned as its EXIF orientation says.

    If `min_side` is given, the picture comes opaque with 8 bits a channel, and reduced: see opaque.reduced(). A JPEG
    without its last bytes is plain where they are missing.

    Raises:
        BadPicture: the file has none of the formats, is damaged, or has too many pixels.
    """
    if format_of(data) == "HEIF":
        _heic_size(data)
        with _heic_errors():
            return heic.decode(data, min_side, MAX_PIXELS)
    with _open(data) as picture:
        try:
            _draft(picture, min_side)
            picture.load()
            turn = TURNS.get(_orientation(picture))  # before reduced(), whose result has no EXIF data
            result = reduced(picture, min_side) if min_side else picture
            return result.transpose(turn) if turn is not None else result
        except UnknownMode as error:
            raise BadPicture(str(error)) from error
        except Exception as error:  # Pillow's decoders raise many types for damaged files
            raise BadPicture(f"the {_name(picture.format)} file is damaged or cut short") from error


def memory_needed(data: bytes, min_side: int | None = None) -> int:
    """The bytes that decode() takes at its peak beside `data`, estimated from the file's header.

    Raises:
        BadPicture: the file has none of the formats, or has too many pixels.
    """
    if format_of(data) == "HEIF":
        width, height = _heic_size(data)
        return width * height * heic.BYTES_PER_PIXEL + 2 * len(data) + heic.PROCESS_BYTES
    with _open(data) as picture:
        kind = picture.format or ""
        decoder = picture.width * picture.height * DECODER_BYTES.get(kind, 0)
        copies = len(data) if kind in ("JPEG", "MPO", *DECODER_BYTES) else 0
        beside = _coefficients(picture, data) + _tiff_buffers(picture)
        _draft(picture, min_side)
        pixels = picture.width * picture.height
        decoded = max(decoder, pixels * MODE_BYTES.get(picture.mode, 4)) + beside
        # The reduced picture and the same turned; without reduction, the turned one.
        results = 8 * (pixels // reduction(picture.size, min_side) ** 2) if min_side else 4 * pixels
        whole = picture.mode in ("L", "RGB") and not picture.has_transparency_data
        strips = 0 if whole else 16 * min(pixels, STRIP_PIXELS)
        return decoded + results + copies + strips + 2**20


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
    """The file, its header read and checked, and nothing decoded.

    Raises:
        BadPicture: as memory_needed().
    """
    name = format_of(data)
    if name is None:
        raise _not_a_picture(describe(data))
    try:
        picture = _pillow(data, name)
    except BadPicture:
        raise
    except Exception as error:  # Pillow's parsers raise many types for damaged files
        raise BadPicture(
            f"the {_name(name)} file is damaged or of a rare kind: save the picture again, as PNG or JPEG"
        ) from error
    _check_size(*picture.size)
    return picture


def _pillow(data: bytes, name: str) -> ImageFile.ImageFile:
    """The file as Pillow opens it, with the limits of its format checked."""
    if name == "JPEG" and jpeg.has_several_scans(data) and jpeg.scans(data) > MAX_JPEG_SCANS:
        raise BadPicture(f"expected at most {MAX_JPEG_SCANS} scans in a JPEG file, got more: save the picture again")
    picture = Image.open(_File(jpeg.ended(data) if name == "JPEG" else data), formats=(name,))
    if name == "JPEG" and max(picture.size) > MAX_JPEG_SIDE:
        raise BadPicture(
            f"expected at most {MAX_JPEG_SIDE:,} pixels a side in a JPEG file, got {picture.width} × {picture.height}"
        )
    if name == "BMP" and picture.info.get("compression") in RUN_LENGTHS:
        raise BadPicture("expected a BMP file without compression: save the picture as PNG")
    if isinstance(picture, TiffImagePlugin.TiffImageFile):
        tags = picture.tag_v2
        if DNG_VERSION in tags or tags.get(SUBFILE_TYPE, 0) & THUMBNAIL:
            raise _not_a_picture(RAW)
        _check_size(*_tiff_tile(picture))
    return picture


def _heic_size(data: bytes) -> tuple[int, int]:
    """The width and height of a HEIC picture, which are checked."""
    with _heic_errors():
        size = heic.size(data)
    _check_size(*size)
    return size


@contextlib.contextmanager
def _heic_errors() -> Iterator[None]:
    try:
        yield
    except heic.DecoderMissing as error:
        raise BadPicture("HEIC: save as JPEG, or install pi-heif") from error
    except heic.DamagedFile as error:
        raise BadPicture("the HEIC file is damaged, cut short or of a rare kind: save the picture as JPEG") from error


def _draft(picture: ImageFile.ImageFile, min_side: int | None) -> None:
    """Let a JPEG be decoded at a half, a quarter or an eighth of its size, if reduced() would reduce it as far."""
    if min_side:
        factor = reduction(picture.size, min_side)
        picture.draft(None, (max(1, picture.width // factor), max(1, picture.height // factor)))


def _orientation(picture: Image.Image) -> int:
    try:
        return int(picture.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # noqa: BLE001 # Pillow raises many types for damaged EXIF data; the picture itself is whole
        return 1


def _coefficients(picture: ImageFile.ImageFile, data: bytes) -> int:
    """The bytes of a JPEG's coefficients, if its decoder keeps them; otherwise 0."""
    if not isinstance(picture, JpegImagePlugin.JpegImageFile) or not jpeg.has_several_scans(data):
        return 0
    samples = [horizontal * vertical for _, horizontal, vertical, _ in picture.layer]
    return 2 * sum(samples) * picture.width * picture.height // max(1, *samples)


def _tiff_tile(picture: TiffImagePlugin.TiffImageFile) -> tuple[int, int]:
    """The width and height of the tiles of a TIFF file, or of its strips: libtiff decompresses each as a whole."""
    tags = picture.tag_v2
    rows = min(tags.get(TiffImagePlugin.ROWSPERSTRIP, picture.height), picture.height)
    return tags.get(TiffImagePlugin.TILEWIDTH, picture.width), tags.get(TiffImagePlugin.TILELENGTH, rows)


def _tiff_buffers(picture: ImageFile.ImageFile) -> int:
    """The bytes that a TIFF file takes beside its pixels; otherwise 0."""
    if not isinstance(picture, TiffImagePlugin.TiffImageFile):
        return 0
    tags, (width, height) = picture.tag_v2, _tiff_tile(picture)
    tile = width * height * sum(tags.get(TiffImagePlugin.BITSPERSAMPLE, (1,))) // 8
    turned = 4 * picture.width * picture.height if tags.get(ExifTags.Base.Orientation, 1) != 1 else 0
    return int(turned + (tile if tags.get(TiffImagePlugin.COMPRESSION, 1) > 1 else 0))


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise BadPicture(
            f"expected at most {MAX_PIXELS:,} pixels, got {width} × {height}: save the picture at a smaller size"
        )


def _not_a_picture(got: str) -> BadPicture:
    return BadPicture(f"expected a {', '.join(FORMATS[:-1])} or {FORMATS[-1]} file, got {got}")


def _name(pillow_format: str | None) -> str:
    return {"WEBP": "WebP", "MPO": "JPEG"}.get(str(pillow_format), str(pillow_format))
