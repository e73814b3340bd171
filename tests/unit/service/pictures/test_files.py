"""Decoding picture files within limits: what is refused, what damage does, what memory it takes."""

import contextlib
import io
import re
import subprocess
import sys
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from service.pictures import heic
from service.pictures.files import FORMATS, MAX_PIXELS, BadPicture, decode, from_pixels, memory_needed
from service.pictures.fit import RESIZE, Fit
from service.pictures.fitting import fit_file
from tests.support.pictures import encoded, four_colours, odd_files, png

FILES = odd_files()
NOISE = Image.effect_noise((90, 90), 50).convert("RGB")


def refusal(data: bytes, min_side: int | None = None) -> str:
    with pytest.raises(BadPicture) as caught:
        decode(data, min_side)
    return str(caught.value)


def zipped() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("word/document.xml", "secret")
    return file.getvalue()


# --- what came ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "got"),
    [
        (b"", "an empty file"),
        (b"%PDF-1.7 secret", "a PDF document: save its page as a picture"),
        (b"<?xml version='1.0'?>\n<!-- a -->\n<svg secret>", "an SVG drawing: export it as PNG"),
        (b"<?xml version='1.0'?><secret/>", "an XML document"),
        (b"\n<!DOCTYPE html><html>secret", "a web page: save the picture that it shows"),
        (b'{"error": "secret"}', "JSON text"),
        (b"secret, but not a picture", "text"),
        ("secret ä".encode(), "text"),
        (zipped(), "a ZIP archive or an Office document: send the pictures in it"),
        (b"8BPS\0\1secret", "a Photoshop document: export it as PNG or JPEG"),
        (b"II*\0\x10\0\0\0CR\2\0secret", "a camera's raw file: export it as JPEG"),
        (b"\0\0\0\x18ftypcrx secret", "a camera's raw file: export it as JPEG"),
        (b"\0\0\0\x14ftypqt  secret", "a video: send one of its frames as a picture"),
        (b"\0\0\0\x18ftypmp42\0\0\0\0mp42isomsecret", "a video: send one of its frames as a picture"),
        (b"\0\0\1\0\1\0secret", "an icon (ICO): save it as PNG"),
        (b"\xff\x0asecret", "a JPEG XL picture: save it as JPEG or PNG"),
        (b"\0\0\0\x0cjP  \r\n\x87\nsecret", "a JPEG 2000 picture: save it as JPEG or PNG"),
        (b"data:image/png;base64,secret", "a picture in base64 text: send the bytes that the text stands for"),
        (b"\x93NUMPY\1\0secret", "a NumPy array: send its pixels as raw"),
        (b"\x81\x00secret\xfe" + bytes(1225), "1,234 bytes of no picture format that we know"),
    ],
)
def test_the_error_names_what_came_and_repeats_nothing_of_it(data: bytes, got: str) -> None:
    assert refusal(data) == f"expected a PNG, JPEG, WebP, HEIC, AVIF, GIF, BMP or TIFF file, got {got}"
    assert memory_refusal(data) == refusal(data)


def memory_refusal(data: bytes) -> str:
    with pytest.raises(BadPicture) as caught:
        memory_needed(data, 64)
    return str(caught.value)


def test_the_thumbnail_in_a_cameras_raw_file_is_not_taken_for_the_picture() -> None:
    for tag, value in ((254, 1), (50706, b"\1\4\0\0")):
        assert "a camera's raw file" in refusal(encoded(four_colours(), "TIFF", tiffinfo={tag: value}))


def test_heic_without_its_decoder_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pi_heif", None)
    assert refusal(FILES["turned.heic"].data) == "HEIC: save as JPEG, or install pi-heif"
    decode(FILES["colour.avif"].data)


# --- limits ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("width", "height"), [(100_000, 100_000), (MAX_PIXELS + 1, 1)])
def test_a_decompression_bomb_is_refused_before_it_is_decoded(width: int, height: int) -> None:
    message = f"expected at most 67,108,864 pixels, got {width} × {height}: save the picture at a smaller size"
    bomb = png(width, height, rows=bytes(100))
    assert refusal(bomb) == memory_refusal(bomb) == message
    with pytest.raises(BadPicture, match="expected at most"):
        from_pixels(b"", width, height, 1)


@pytest.mark.parametrize(
    "name", ["baseline.jpg", "progressive.jpg", "lossy.webp", "colour.bmp", "moving.gif", "raw.tif"]
)
def test_the_limit_holds_for_every_format(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.pictures.files.MAX_PIXELS", 64 * 48 - 1)
    monkeypatch.setattr(Image.Image, "load", lambda _: pytest.fail("decoded"))
    assert re.search("pixels, got (64 × 48|48 × 64):", refusal(FILES[name].data))


def test_a_tiff_with_tiles_larger_than_the_limit_is_refused() -> None:
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    values = {256: 64, 257: 48, 258: (8, 8, 8), 259: 5, 262: 2, 277: 3, 322: 2**16, 323: 2**16, 324: 8, 325: 8}
    for tag, value in values.items():
        tags[tag] = value
    data = b"II*\0\x08\0\0\0" + tags.tobytes(8)
    assert "got 65536 × 65536" in refusal(data)


def test_a_jpeg_of_very_many_scans_is_refused() -> None:
    data = encoded(four_colours(), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    assert "at most 100 scans" in refusal(data[:last] + data[last:-2] * 100 + data[-2:])


PIECES = 300_000  # of a few bytes; a file of 60 MB has room for 15 million, which take minutes to read
JPEG, PROGRESSIVE = FILES["baseline.jpg"].data, FILES["progressive.jpg"].data
PNG, GIF = encoded(four_colours(), "PNG"), encoded(four_colours().convert("L"), "GIF")
CHUNK = b"\0\0\0\0prVt" + zlib.crc32(b"prVt").to_bytes(4)


@pytest.mark.parametrize(
    "data",
    [
        JPEG[:2] + b"\xff\xe5\0\2" * PIECES + JPEG[2:],
        JPEG[:2] + b"\xff" * PIECES + JPEG[2:],
        PROGRESSIVE[:-2] + b"\xff\xfe\0\2" * PIECES + PROGRESSIVE[-2:],
        PNG[:33] + CHUNK * PIECES + PNG[33:],
        PNG[:-12] + CHUNK * PIECES + PNG[-12:],
        GIF.replace(b",\0\0\0\0", b"\x21\xfe\1a\0" * PIECES + b",\0\0\0\0"),
    ],
    ids=["segments", "fill bytes", "segments after the scans", "chunks", "chunks after the pixels", "comments"],
)
def test_a_file_of_countless_pieces_is_refused(data: bytes) -> None:
    assert " file is damaged or " in refusal(data)


def test_a_header_of_countless_sizes_is_not_read() -> None:
    head, size = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", b"ispe\0\0\0\0\0\0\0\1\0\0\0\1"
    assert memory_refusal(head + size * PIECES).startswith("the HEIC file is damaged")
    assert memory_refusal(head + (len(size) * PIECES + 8).to_bytes(4) + b"meta" + size * PIECES).startswith("the HEIC")


def test_the_size_of_a_heic_picture_is_that_in_its_header() -> None:
    data, size = FILES["turned.heic"].data, b"ispe\0\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff"
    assert heic.size(data + size) == heic.size(data)
    assert max(heic.size(data)) == 64


def test_damaged_metadata_prints_no_warnings() -> None:
    program = "import sys; from service.pictures.files import decode; decode(sys.stdin.buffer.read())"
    tag = (4).to_bytes(2) + (1000).to_bytes(4) + bytes(4)
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\2" + b"\0\1" + tag + b"\0\2" + tag + bytes(4)
    file = encoded(four_colours(), "JPEG", exif=exif)
    done = subprocess.run([sys.executable, "-c", program], input=file, capture_output=True, check=True)
    assert done.stderr == b""


def test_a_jpeg_side_over_libjpegs_limit_is_refused() -> None:
    data = bytearray(encoded(Image.new("L", (16, 16)), "JPEG"))
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = (8).to_bytes(2, "big") + (65_535).to_bytes(2, "big")
    assert refusal(bytes(data)) == "expected at most 65,500 pixels a side in a JPEG file, got 65535 × 8"


def test_32_bits_a_channel_are_refused() -> None:
    for mode in ("I", "F"):
        data = encoded(Image.new(mode, (9, 9)), "TIFF")
        assert refusal(data, 64) == "expected 8 or 16 bits a channel, got 32: save it with 8"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((bytes(12), 2, 2, 2), "channels expected 1, 3 or 4, got 2"),
        ((b"", 0, 2, 1), "expected at least 1, got 0 × 2"),
        ((bytes(11), 2, 2, 3), "pixels expected 2 × 2 × 3 bytes, got 11"),
    ],
)
def test_raw_pixels_must_match_their_size(arguments: tuple[bytes, int, int, int], message: str) -> None:
    with pytest.raises(BadPicture, match=message):
        from_pixels(*arguments)


# --- damage ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["alpha.png", "lossy.webp", "raw.tif", "colour.bmp", "moving.gif", "turned.heic"])
def test_a_file_cut_short_is_refused_in_one_line(name: str) -> None:
    data = FILES[name].data
    message = refusal(data[: len(data) * 2 // 3])
    assert re.fullmatch(f"the ({'|'.join(FORMATS)}) file is damaged(,| or) (cut short|of a rare kind).*", message)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_rows": 1}], ids=str)
def test_a_jpeg_is_read_from_wherever_its_first_scan_is_cut(options: dict[str, object]) -> None:
    whole = encoded(NOISE, "JPEG", **options)
    begins = whole.index(b"\xff\xda") + 14
    for cut in (*range(begins + 2, len(whole), 7), len(whole) - 1):
        assert decode(whole[:cut]).size == NOISE.size
    most = np.asarray(decode(whole[: len(whole) * 9 // 10])).astype(int)
    assert np.abs(most[:40] - np.asarray(decode(whole))[:40]).mean() < 12
    for cut in (begins, begins - 1, 200):
        assert refusal(whole[:cut]).startswith("the JPEG file is damaged")


@pytest.mark.parametrize(
    "name", [name for name in FILES if "orientation" not in name and "000" not in name and "heic" not in name]
)
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # Pillow's, on metadata
def test_a_damaged_file_is_decoded_or_refused_without_another_exception(name: str) -> None:
    random, file = np.random.default_rng(0), FILES[name].data
    for change in (_other_bytes, _cut, _repeated):
        for _ in range(20):
            with contextlib.suppress(BadPicture):
                damaged = change(file, random)
                memory_needed(damaged, 16)
                fit_file(damaged, (8, 8, 3), Fit(RESIZE))


def test_a_heic_file_that_crashes_its_decoder_is_refused() -> None:
    """With pi-heif 1.4.0 this byte ends the process that decodes the file with SIGSEGV."""
    crashing = bytearray(FILES["turned.heic"].data)
    crashing[177] = 255
    assert refusal(bytes(crashing)).startswith("the HEIC file is damaged")
    assert refusal(FILES["turned.heic"].data[:500]).startswith("the HEIC file is damaged")


def _other_bytes(file: bytes, random: np.random.Generator) -> bytes:
    damaged = np.frombuffer(file, np.uint8).copy()
    damaged[random.integers(0, len(damaged), 3)] = random.integers(0, 256, 3)
    return damaged.tobytes()


def _cut(file: bytes, random: np.random.Generator) -> bytes:
    return file[: random.integers(0, len(file))]


def _repeated(file: bytes, random: np.random.Generator) -> bytes:
    begin, end = sorted(random.integers(0, len(file), 2))
    return file[:end] + file[begin:]


def test_a_jpeg_without_samples_is_refused() -> None:
    data = bytearray(FILES["progressive.jpg"].data)
    frame = data.index(b"\xff\xc2")
    for component in range(3):
        data[frame + 11 + 3 * component] = 0
    assert memory_needed(bytes(data), 16) > 0
    assert refusal(bytes(data), 16) == "the JPEG file is damaged or cut short"


def test_a_bmp_whose_compression_pillow_decodes_in_python_is_refused() -> None:
    data = bytearray(encoded(Image.new("L", (9, 9)), "BMP"))
    data[30] = 1  # compression: run lengths of 8 bits
    assert refusal(bytes(data)) == "expected a BMP file without compression: save the picture as PNG"


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # Pillow's, on metadata
def test_damaged_exif_data_leaves_the_picture_as_it_is() -> None:
    data = encoded(four_colours(), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\xffnot EXIF")
    assert decode(data).size == (64, 48)


# --- reduction and memory ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize(
    ("size", "reduced"),
    [
        ((640, 480), (80, 60)),  # by 8: 480 // 60
        ((119, 119), (119, 119)),
        ((50, 640), (50, 640)),  # longer than 8 times 60, but not twice
        ((50, 970), (25, 485)),
    ],
)
def test_a_picture_is_reduced_to_at_least_the_shorter_side(
    form: str, size: tuple[int, int], reduced: tuple[int, int]
) -> None:
    decoded = decode(encoded(Image.new("RGB", size, (9, 99, 199)), form), 60).size
    assert decoded == reduced


def test_a_picture_of_another_mode_is_reduced_like_one_that_is_converted_first() -> None:
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (701, 1203, 4), np.uint8)
    picture = Image.fromarray(pixels, "RGBA")
    white = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
    np.testing.assert_array_equal(np.asarray(decode(encoded(picture), 64)), np.asarray(white.reduce(10)))


@pytest.mark.parametrize(
    ("form", "options", "bytes_a_pixel"),
    [
        ("PNG", {}, 4),
        ("JPEG", {}, 1),  # decoded at half the size
        ("JPEG", {"progressive": True}, 1 + 2 * 1.5),  # and the coefficients at full size, 4:2:0
        ("WEBP", {}, 17),
        ("TIFF", {"compression": "tiff_lzw", "tiffinfo": {278: 1200}}, 4 + 3),  # one strip
    ],
)
def test_the_memory_of_decoding_is_estimated_from_the_header(
    form: str, options: dict[str, object], bytes_a_pixel: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = 1600 * 1200
    data = encoded(Image.effect_noise((1600, 1200), 50).convert("RGB"), form, **options)
    monkeypatch.setattr(Image.Image, "load", lambda _: pytest.fail("decoded"))
    needed = memory_needed(data, 512)
    assert bytes_a_pixel * pixels <= needed <= bytes_a_pixel * pixels + 2 * pixels + 3 * 2**20


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_transparent_colour_takes_the_memory_of_conversion(mode: str) -> None:
    picture, white = Image.new(mode, (600, 600)), 255 if mode == "L" else (255, 255, 255)
    transparent = encoded(picture, transparency=white)
    assert memory_needed(transparent, 512) - memory_needed(encoded(picture), 512) >= 14 * 2**18


def test_one_test_file_of_each_format_is_read() -> None:
    suffixes = {name.rsplit(".")[-1] for name in FILES}
    assert suffixes >= {"png", "jpg", "webp", "heic", "avif", "gif", "bmp", "tif"} and len(FORMATS) == 8
