"""Encodes responses: outputs to ModelInferResponse bytes.

Owns the serialised response. It is joined from serialised pieces, and pieces that depend only on shapes are cached:
protobuf messages can be concatenated field by field (https://protobuf.dev/programming-guides/encoding/). Not here:
the classification extension (top_classes.py).
"""

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from service.core.datatypes import BYTES, ELEMENT_LENGTH
from service.core.errors import ServiceError
from service.core.spec import ModelSpec, Outputs, RequestedOutputs
from service.core.wire import expansion
from service.inference.top_classes import classification_strings
from service.pb.inference_pb2 import ModelInferRequest, ModelInferResponse, ModelStreamInferResponse

# Tags of ModelInferResponse's length-delimited fields: number << 3 | 2.
ID_TAG, RAW_TAG = b"\x1a", b"\x32"
# Tag of ModelStreamInferResponse's infer_response.
INFER_RESPONSE_TAG = b"\x12"


class Encoder(Protocol):
    """Encodes the outputs of one request for its caller."""

    def encode(self, request_id: str, outputs: Outputs, first: int, end: int, /) -> bytes:
        """The encoded rows from `first` up to, not including, `end`."""


@dataclass(frozen=True)
class ValuesEncoder:
    """Gives a caller in this process the values of one output, as bytes, instead of a message."""

    output: int  # its index

    def encode(self, _: str, outputs: Outputs, first: int, end: int, /) -> bytes:
        """The values of the rows, in row-major order."""
        return outputs.raw(self.output, first, end)


class ResponseEncoder:
    """Serialises the ModelInferResponses of a version to requests that ask for the same outputs in the same form."""

    def __init__(self, spec: ModelSpec, requested: RequestedOutputs) -> None:
        self._spec = spec
        self._requested = requested
        self._indices = [index for index, _ in requested]
        self._plain = not any(classes or spec.outputs[index].data_type is BYTES for index, classes in requested)
        self._frames = lru_cache(maxsize=256)(self._make_frames)

    def encode(self, request_id: str, outputs: Outputs, first: int, end: int) -> bytes:
        """The serialised response with the rows from `first` up to, not including, `end`.

        Contents are raw, in the order in which the request names its outputs.
        """
        if not self._plain:
            return self._encode_converted(request_id, outputs, first, end)
        frames = self._frames(end - first, outputs.whole, outputs.shapes)
        if len(frames) == 1 and not request_id:
            return frames[0] + outputs.raw(self._indices[0], first, end)
        pieces = _id_pieces(request_id)
        for frame, index in zip(frames, self._indices, strict=True):
            pieces += (frame, outputs.raw(index, first, end))
        return b"".join(pieces)

    def _make_frames(self, rows: int, whole: bool, shapes: tuple[tuple[int, ...], ...]) -> list[bytes]:
        """The serialised bytes before the contents of each output, which depend only on shapes."""
        full_shapes = [shapes[index] if whole else (rows, *shapes[index]) for index in self._indices]
        tags = [
            RAW_TAG + varint(math.prod(shape) * self._spec.outputs[index].data_type.dtype.itemsize)
            for shape, index in zip(full_shapes, self._indices, strict=True)
        ]
        return [self._header(full_shapes) + tags[0], *tags[1:]]

    def _encode_converted(self, request_id: str, outputs: Outputs, first: int, end: int) -> bytes:
        """As encode(), for outputs that need conversion: top classes and strings."""
        spec = self._spec
        arrays = [
            classification_strings(values, count, spec.outputs[index], batches=spec.batches) if count else values
            for index, count in self._requested
            for values in (outputs.rows(index, first, end),)
        ]
        pieces = _id_pieces(request_id)
        pieces.append(self._header([array.shape for array in arrays]))
        for array in arrays:
            raw = _join_bytes(array) if array.dtype.hasobject else array.tobytes()
            pieces += (RAW_TAG, varint(len(raw)), raw)
        return b"".join(pieces)

    def _header(self, shapes: Sequence[tuple[int, ...]]) -> bytes:
        """The serialised response without its id and contents."""
        spec = self._spec
        response = ModelInferResponse(model_name=spec.name, model_version=str(spec.version))
        for (index, classes), shape in zip(self._requested, shapes, strict=True):
            tensor = spec.outputs[index]
            datatype = BYTES.name if classes else tensor.data_type.name
            response.outputs.add(name=tensor.name, datatype=datatype, shape=shape)
        return response.SerializeToString()


@lru_cache(maxsize=256)
def encoder_for(spec: ModelSpec, requested: RequestedOutputs) -> ResponseEncoder:
    """The encoder of these outputs; cached, so that its cached pieces are shared."""
    return ResponseEncoder(spec, requested)


def stream_response(payload: bytes) -> bytes:
    """The serialised ModelStreamInferResponse that carries a serialised ModelInferResponse."""
    return b"".join((INFER_RESPONSE_TAG, varint(len(payload)), payload))


def stream_error(request: bytes, error: ServiceError) -> bytes:
    """The serialised ModelStreamInferResponse that carries the error of a serialised request."""
    response = ModelStreamInferResponse(error_message=error.message)
    if not expansion(request, ModelInferRequest.RAW_INPUT_CONTENTS_FIELD_NUMBER):
        with contextlib.suppress(DecodeError):
            message = ModelInferRequest.FromString(request)
            response.infer_response.id = message.id
            response.infer_response.model_name = message.model_name
    return response.SerializeToString()


def _join_bytes(texts: NDArray[np.generic]) -> bytes:
    """The raw contents of a BYTES tensor."""
    pieces: list[bytes] = []
    for text in texts.ravel():
        encoded = str(text).encode()
        pieces += (ELEMENT_LENGTH.pack(len(encoded)), encoded)
    return b"".join(pieces)


def _id_pieces(request_id: str) -> list[bytes]:
    if not request_id:
        return []
    encoded = request_id.encode()
    return [ID_TAG, varint(len(encoded)), encoded]


@lru_cache(maxsize=1024)
def varint(value: int) -> bytes:
    """Protobuf's variable-length integer: seven bits a byte, the least significant first."""
    result = bytearray()
    while value > 0x7F:
        result.append(value & 0x7F | 0x80)
        value >>= 7
    result.append(value)
    return bytes(result)
