"""The fields of a serialised protobuf message, read without copying their contents.

For messages whose parse would hold Python's lock for long or take much memory: models with their weights, requests with
pictures, requests of strangers.
Source of the format: https://protobuf.dev/programming-guides/encoding/
"""

import contextlib
from collections.abc import Iterator
from typing import NamedTuple

# A message may take 50 times its size once it is parsed: two bytes make an empty message inside it. So a message larger
# than FREE_BYTES may have that many bytes, besides contents that are kept as they are, in at most MAX_FIELDS fields.
FREE_BYTES, MAX_FIELDS = 4 * 2**20, 4096


class Field(NamedTuple):
    """One field: its number, its content, and the whole of it with its tag."""

    number: int
    content: memoryview | int
    whole: memoryview


def fields(message: memoryview) -> Iterator[Field]:
    """Each field of a message, in the order of its bytes.

    Raises:
        ValueError: the bytes are not a message.
    """
    position = 0
    while position < len(message):
        start = position
        tag, position = _varint(message, position)
        match tag & 7:
            case 0:
                value, position = _varint(message, position)
                yield Field(tag >> 3, value, message[start:position])
                continue
            case 1:
                size = 8
            case 2:
                size, position = _varint(message, position)
            case 5:
                size = 4
            case _:
                raise ValueError(f"wire type {tag & 7}")
        end = position + size
        if end > len(message):
            raise ValueError("a field ends after its message")
        yield Field(tag >> 3, message[position:end], message[start:end])
        position = end


def expansion(payload: bytes, contents: int = 0) -> str:
    """Why parsing a message could take many times the memory of its bytes; "" if it cannot.

    `contents` is the number of its field of type bytes that may be large.
    """
    if len(payload) <= FREE_BYTES:
        return ""
    structure = 0
    with contextlib.suppress(ValueError):  # not a message: parsing it ends there too
        for count, field in enumerate(fields(memoryview(payload)), start=1):
            structure += len(field.whole) if field.number != contents else 0
            if structure > FREE_BYTES:
                return f"may have at most {FREE_BYTES} bytes besides large contents"
            if count > MAX_FIELDS:
                return f"may have at most {MAX_FIELDS} fields"
    return ""


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    """A number of 7 bits a byte, lowest first, and the position after it."""
    number = 0
    for shift, byte in enumerate(message[position : position + 10]):
        number |= (byte & 0x7F) << 7 * shift
        if byte < 0x80:
            return number, position + shift + 1
    raise ValueError("a number has no end")
