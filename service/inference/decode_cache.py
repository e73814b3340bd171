"""Decodes a request with the byte layout of an earlier one, without parsing and checking it again.

Owns the detection of requests that differ from an earlier one only in their id and contents, by comparing the bytes
around these. A protobuf message is its fields one after the other, so equal bytes mean equal fields:
https://protobuf.dev/programming-guides/encoding/. Not here: the checks of a request (decode.py).

    0a 01 6d  12 01 31  1a 02 37 37  2a 0f 0a 06 …  3a 90 06  00 00 …
    └ name and version ┘└─ the id ─┘└──────── middle ───────┘└ contents
"""

import weakref
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from service.core.spec import Arrays
from service.inference.decode import Parameters, ParsedRequest
from service.inference.encode import ResponseEncoder, varint
from service.models.loader import LoadedModel
from service.pb.inference_pb2 import ModelInferRequest

# Tags of ModelInferRequest's fields, number << 3 | 2, and the largest length that takes one byte.
NAME_TAG, VERSION_TAG, ID_TAG, CONTENTS_TAG = 0x0A, 0x12, 0x1A, b"\x3a"
MAX_ONE_BYTE_LENGTH = 0x7F
# The limits of the cache: a client that varies its requests must not fill the memory.
MAX_CACHED_LAYOUTS = 256
MAX_MIDDLE_BYTES = 2048


@dataclass(frozen=True, slots=True)
class CachedLayout:
    """The fields that requests with one layout share. They have one input, with elements of a fixed size."""

    name: str
    version: str
    parameters: Parameters
    # The version that the layout was checked against. Weak, so that an unloaded version is freed.
    model: weakref.ref[LoadedModel]
    encoder: ResponseEncoder
    dtype: np.dtype[np.generic]
    shape: tuple[int, ...]
    count: int
    rows: int
    middle: bytes

    def inputs(self, payload: bytes, start: int) -> Arrays:
        """The inputs of a request with its contents at `start`: a view of its bytes."""
        return (np.frombuffer(payload, self.dtype, self.count, start).reshape(self.shape),)


class CacheHit(NamedTuple):
    """A request with a known layout: what routes it, as in ParsedRequest, and where its contents begin."""

    layout: CachedLayout
    name: str
    version: str
    id: str
    parameters: Parameters
    start: int


class DecodeCache:
    """The layouts of earlier requests, by the bytes of name and version and by the length of the rest."""

    def __init__(self) -> None:
        self._layouts: dict[tuple[bytes, int], CachedLayout] = {}

    def find(self, payload: bytes) -> CacheHit | None:
        """The request if its layout is known, else None."""
        try:
            end, request_id, after = split_id(payload)
            layout = self._layouts.get((payload[:end], len(payload) - after))
            if layout is None or not payload.startswith(layout.middle, after):
                return None
            start = after + len(layout.middle)
            return CacheHit(layout, layout.name, layout.version, request_id.decode(), layout.parameters, start)
        except (IndexError, UnicodeDecodeError):  # not a request, or not one with a known layout
            return None

    def add(
        self,
        payload: bytes,
        request: ParsedRequest,
        model: LoadedModel,
        inputs: Arrays,
        rows: int,
        encoder: ResponseEncoder,
    ) -> None:
        """Cache the layout of a request that passed every check, if its bytes alone identify the layout."""
        raw = request.message.raw_input_contents
        if len(raw) != 1 or len(inputs) != 1 or _is_converted(inputs[0]) or request.parameters.sticky_key:
            return
        try:
            end, request_id, after = split_id(payload)
        except IndexError:
            return
        start = len(payload) - len(raw[0])
        middle = payload[after:start]
        tag = CONTENTS_TAG + varint(len(raw[0]))
        if not middle.endswith(tag) or len(middle) > MAX_MIDDLE_BYTES or request.id.encode() != request_id:
            return
        try:
            rest = ModelInferRequest.FromString(middle[: -len(tag)])
        except DecodeError:
            return
        if rest.model_name or rest.model_version or rest.id or rest.raw_input_contents:
            return  # the field occurs twice, and the last one counts
        if len(self._layouts) >= MAX_CACHED_LAYOUTS:
            self._layouts.clear()
        self._layouts[payload[:end], len(payload) - after] = CachedLayout(
            name=request.name,
            version=request.version,
            parameters=request.parameters,
            model=weakref.ref(model),
            encoder=encoder,
            dtype=inputs[0].dtype,
            shape=inputs[0].shape,
            count=inputs[0].size,
            rows=rows,
            middle=middle,
        )


def split_id(payload: bytes) -> tuple[int, bytes, int]:
    """The offset of the end of name and version, the id's bytes, and the offset of the end of the id.

    Raises:
        IndexError: the payload does not begin with a name of at most 127 bytes, or is too short.
    """
    if payload[0] != NAME_TAG or payload[1] > MAX_ONE_BYTE_LENGTH:
        raise IndexError
    end = 2 + payload[1]
    if payload[end] == VERSION_TAG and payload[end + 1] <= MAX_ONE_BYTE_LENGTH:
        end += 2 + payload[end + 1]
    if payload[end] != ID_TAG or payload[end + 1] > MAX_ONE_BYTE_LENGTH:
        return end, b"", end
    after = end + 2 + payload[end + 1]
    return end, payload[end + 2 : after], after


def _is_converted(array: NDArray[np.generic]) -> bool:
    """Whether decoding converts arrays of this type, instead of viewing the request's bytes."""
    return array.dtype.hasobject or array.dtype == np.bool_
