"""The segments of a JPEG file, as far as decoding needs them.

Owns the number of scans, and the repair of a file without its last bytes. Not here: decoding (files.py).
Source of the markers: ITU-T T.81, table B.1.
"""

import re
from collections.abc import Iterator

START_OF_SCAN, END = 0xDA, 0xD9
# Frames: baseline, extended, progressive, and the last two with arithmetic coding.
FRAMES = (0xC0, 0xC1, 0xC2, 0xC9, 0xCA)
PROGRESSIVE = (0xC2, 0xCA)
# A marker with a segment, or the end: in coded data, 0xFF stands before 0 or before a restart marker alone.
MARKER = re.compile(rb"\xff[^\x00\x01\xff\xd0-\xd8]")
# More than any encoder writes. A file of 60 MB could have 15 million, and take minutes to read.
MAX_SEGMENTS = 4096
# Bytes that are searched at once: a search stops all other threads, here for at most 1 ms.
SEARCHED = 2**17


class TooManySegments(ValueError):
    """The file has more than MAX_SEGMENTS."""


def has_several_scans(data: bytes) -> bool:
    """Whether the picture is complete after several scans only: the decoder keeps the coefficients of all of it."""
    components = 1
    for marker, at, _ in _segments(data):
        if marker in PROGRESSIVE:
            return True
        if marker in FRAMES:
            components = int.from_bytes(data[at + 9 : at + 10])
        if marker == START_OF_SCAN:
            return int.from_bytes(data[at + 4 : at + 5]) < components
    return False


def scans(data: bytes) -> int:
    """The number of scans."""
    return sum(marker == START_OF_SCAN for marker, _, _ in _segments(data))


def ended(data: bytes) -> bytes:
    """The file with an end, so that the decoder makes what is missing plain, as browsers do, in place of an error.

    Pillow's LOAD_TRUNCATED_IMAGES does the same for all threads and formats. A segment that is cut short goes: the
    decoder would take the end for a part of it.
    """
    several = has_several_scans(data)
    for marker, at, end in _segments(data):
        if marker != END and end >= len(data):
            data = data[:at]
            break
        if marker == START_OF_SCAN and not several:
            break
    return data + bytes((0xFF, END))


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Each segment's marker, and the positions where it begins and ends, up to END.

    Raises:
        TooManySegments
    """
    end = 2
    for _ in range(MAX_SEGMENTS):
        if (at := _next_marker(data, end)) is None:
            return
        marker = data[at + 1]
        end = at + 2 + (0 if marker == END else max(2, int.from_bytes(data[at + 2 : at + 4])))
        yield marker, at, end
        if marker == END:
            return
    raise TooManySegments


def _next_marker(data: bytes, start: int) -> int | None:
    """The position of the first marker from `start`."""
    for at in range(start, len(data), SEARCHED):
        if found := MARKER.search(data, at, at + SEARCHED + 1):  # one more, for a marker across the border
            return found.start()
    return None
