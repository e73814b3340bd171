"""Decodes HEIC files, each in a process of its own.

pi-heif 1.4.0 and libheif are not safe on hostile files: one changed byte in a small file is SIGSEGV, and within 200,000
random changes the heap was corrupt. A child takes the crash, and the service runs on.
Not here: the other formats, whose decoders Pillow brings (files.py).

    python -m service.pictures.heic MIN_SIDE MAX_PIXELS < FILE     prints mode, width and height, and the pixels
"""

import importlib.util
import io
import os
import re
import subprocess
import sys
from pathlib import Path

from PIL import Image

from service.pictures.opaque import reduced

# Where modules of the service are found, also if it is not installed.
ROOT = Path(__file__).parents[2]
# A child gets no other variables: what a service keeps in its environment is none of a decoder's business.
ENVIRONMENT = ("LD_LIBRARY_PATH", "PATH", "SYSTEMROOT")
SECONDS = 20.0
# A box that holds an image's width and height, 4 bytes each: of the picture, its tiles and its thumbnail.
SIZE_BOX = re.compile(rb"ispe\0\0\0\0(.{4})(.{4})", re.DOTALL)
# The box that holds these, its largest size in bytes, and the number of boxes on the way to it: that of a photograph
# has 4 KB and is among the first three. A search through a whole file would stop all other threads meanwhile.
HEADER, MAX_HEADER_BYTES, MAX_BOXES = b"meta", 2**18, 64
# Resident memory of a child beside pixels, and bytes a pixel at the peak of decoding: measured.
PROCESS_BYTES, BYTES_PER_PIXEL = 48 * 2**20, 9


class DecoderMissing(Exception):
    """pi-heif is not installed."""


class DamagedFile(Exception):
    """The decoder refused the file, crashed, or took longer than SECONDS."""


def size(data: bytes) -> tuple[int, int]:
    """The largest width and height in a file's header, in pixels: those of the picture.

    Raises:
        DamagedFile: there are none.
    """
    boxes = [(int.from_bytes(width), int.from_bytes(height)) for width, height in SIZE_BOX.findall(_header(data))]
    if not boxes:
        raise DamagedFile
    return max(boxes, key=lambda box: box[0] * box[1])


def _header(data: bytes) -> bytes:
    """The box HEADER; empty if it is too large, or not where it is expected."""
    at = 0
    for _ in range(MAX_BOXES):
        length, kind = int.from_bytes(data[at : at + 4]), data[at + 4 : at + 8]
        if length == 1:
            length = int.from_bytes(data[at + 8 : at + 16])
        if kind == HEADER:
            return data[at : at + length] if length <= MAX_HEADER_BYTES else b""
        if length == 0:  # the last box
            break
        at += length
    return b""


def decode(data: bytes, min_side: int | None, max_pixels: int) -> Image.Image:
    """The picture, turned as the file says; opaque and reduced as by reduced() if `min_side` is given.

    Raises:
        DecoderMissing, DamagedFile
    """
    if not importlib.util.find_spec("pi_heif"):
        raise DecoderMissing
    command = [sys.executable, "-m", "service.pictures.heic", str(min_side or 0), str(max_pixels)]
    environment = {name: os.environ[name] for name in ENVIRONMENT if name in os.environ} | {"PYTHONPATH": str(ROOT)}
    try:
        child = subprocess.run(
            command, input=data, capture_output=True, env=environment, timeout=SECONDS, check=True, cwd=ROOT
        )
        header, pixels = child.stdout.split(b"\n", 1)
        mode, width, height = header.decode().split()
        return Image.frombytes(mode, (int(width), int(height)), pixels)
    except (subprocess.SubprocessError, ValueError) as error:
        raise DamagedFile from error


def main() -> None:
    """Decode the file from standard input."""
    from pi_heif import HeifImageFile  # here, because the service does not load it

    min_side, max_pixels = map(int, sys.argv[1:])
    picture = HeifImageFile(io.BytesIO(sys.stdin.buffer.read()))
    if picture.width * picture.height > max_pixels:
        sys.exit("too many pixels")
    picture.load()
    result = reduced(picture, min_side) if min_side else picture
    sys.stdout.buffer.write(f"{result.mode} {result.width} {result.height}\n".encode() + result.tobytes())


if __name__ == "__main__":
    main()
