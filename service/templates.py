"""Requests like one that came before: what all calls of a client have in common is parsed and checked once.

Owns: telling that a request differs from an earlier one in nothing but its id and its contents, by comparing the bytes
around them. Messages of protobuf are their fields one after the other, so equal bytes mean equal fields:
https://protobuf.dev/programming-guides/encoding/. Does not own: the checks themselves (codec.py).

    0a 01 6d  12 01 31  1a 02 37 37  2a 0f 0a 06 …  3a 90 06  00 00 …
    └ name and version ┘└─ the id ─┘└──────── middle ───────┘└ contents
"""

import weakref
from dataclasses import dataclass

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from service.codec import Parameters
from service.loader import LoadedModel
from service.model import Arrays
from service.pb.inference_pb2 import ModelInferRequest
from service.response import Writer, varint

# Tags of ModelInferRequest's fields, number << 3 | 2, and the longest of them whose length takes one byte.
NAME_TAG, VERSION_TAG, ID_TAG, CONTENTS_TAG = 0x0A, 0x12, 0x1A, b"\x3a"
SHORT = 0x7F
# How many are kept, and how many bytes each may be long; a client of many kinds must not fill the memory.
MOST = 256
LONGEST = 2048


@dataclass(frozen=True, slots=True)
class Template:
    """What requests of one kind have in common. They have one input, whose elements all have one size."""

    name: str
    version: str
    parameters: Parameters
    model: weakref.ref[LoadedModel]  # that it was checked against; a version that was unloaded must be able to go
    writer: Writer
    dtype: np.dtype[np.generic]
    shape: tuple[int, ...]
    count: int
    rows: int
    middle: bytes

    def inputs(self, payload: bytes, start: int) -> Arrays:
        """The inputs of a request whose contents begin at `start`: a view of its bytes."""
        return (np.frombuffer(payload, self.dtype, self.count, start).reshape(self.shape),)


class Templates:
    """Those that were learned from requests, by how requests begin and by their length."""

    def __init__(self) -> None:
        self._by_frame: dict[tuple[bytes, int], Template] = {}

    def find(self, payload: bytes) -> tuple[Template, str, int] | None:
        """The template that the request follows, its id, and where its contents begin."""
        try:
            end, request_id, after = id_of(payload)
            template = self._by_frame.get((payload[:end], len(payload) - after))
            if template is None or not payload.startswith(template.middle, after):
                return None
            return template, request_id.decode(), after + len(template.middle)
        except (IndexError, UnicodeDecodeError):  # no request, or none that is like others
            return None

    def learn(
        self,
        payload: bytes,
        message: ModelInferRequest,
        parameters: Parameters,
        model: LoadedModel,
        inputs: Arrays,
        rows: int,
        writer: Writer,
    ) -> None:
        """Remember a request that was found good, if it is of a kind that can be told by its bytes."""
        raw = message.raw_input_contents
        if len(raw) != 1 or len(inputs) != 1 or _is_converted(inputs[0]) or parameters.sticky_key:
            return
        try:
            end, request_id, after = id_of(payload)
        except IndexError:
            return
        start = len(payload) - len(raw[0])
        middle = payload[after:start]
        tag = CONTENTS_TAG + varint(len(raw[0]))
        if not middle.endswith(tag) or len(middle) > LONGEST or message.id.encode() != request_id:
            return
        try:
            rest = ModelInferRequest.FromString(middle[: -len(tag)])
        except DecodeError:
            return
        if rest.model_name or rest.model_version or rest.id or rest.raw_input_contents:
            return  # given again there, where the last one counts
        if len(self._by_frame) >= MOST:
            self._by_frame.clear()
        self._by_frame[payload[:end], len(payload) - after] = Template(
            name=message.model_name,
            version=message.model_version,
            parameters=parameters,
            model=weakref.ref(model),
            writer=writer,
            dtype=inputs[0].dtype,
            shape=inputs[0].shape,
            count=inputs[0].size,
            rows=rows,
            middle=middle,
        )


def id_of(payload: bytes) -> tuple[int, bytes, int]:
    """Where name and version end, the id's bytes, and where the id ends.

    Raises:
        IndexError: the payload does not begin with a short name, or is too short.
    """
    if payload[0] != NAME_TAG or payload[1] > SHORT:
        raise IndexError
    end = 2 + payload[1]
    if payload[end] == VERSION_TAG and payload[end + 1] <= SHORT:
        end += 2 + payload[end + 1]
    if payload[end] != ID_TAG or payload[end + 1] > SHORT:
        return end, b"", end
    after = end + 2 + payload[end + 1]
    return end, payload[end + 2 : after], after


def _is_converted(array: NDArray[np.generic]) -> bool:
    """Whether an array of this type is more than a view of the request's bytes."""
    return array.dtype.hasobject or array.dtype == np.bool_
