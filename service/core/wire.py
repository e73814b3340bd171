"""The fields of a serialised protobuf message, read without copying their contents.

For messages whose parse would hold Python's lock for long: models with their weights, requests with pictures.
Source of the format: https://protobuf.dev/programming-guides/encoding/
"""

from collections.abc import Iterator
from typing import NamedTuple


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


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    """A number of 7 bits a byte, lowest first, and the position after it."""
    number = 0
    for shift, byte in enumerate(message[position : position + 10]):
        number |= (byte & 0x7F) << 7 * shift
        if byte < 0x80:
            return number, position + shift + 1
    raise ValueError("a number has no end")
