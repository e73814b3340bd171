"""One answer: arrays → ModelInferResponse bytes.

Owns the reply, of which all that never changes is built once, and classification. It is put together from pieces of
serialised protobuf: https://protobuf.dev/programming-guides/encoding/ says that messages concatenate, field by field.
"""

import contextlib
import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from service.core.datatypes import BYTES, ELEMENT_LENGTH
from service.core.errors import ServiceError
from service.core.spec import ModelSpec, Outputs, RequestedOutputs
from service.inference.classification import classification_strings
from service.pb.inference_pb2 import ModelInferRequest, ModelInferResponse, ModelStreamInferResponse

# Tags of ModelInferResponse's length-delimited fields: number << 3 | 2.
ID_TAG, RAW_TAG = b"\x1a", b"\x32"
# And of ModelStreamInferResponse's infer_response.
STREAMED_TAG = b"\x12"


class ResponseEncoder:
    """Writes what a version answers to those who ask for the same outputs in the same form: ModelInferResponses."""

    def __init__(self, spec: ModelSpec, requested: RequestedOutputs) -> None:
        self._spec = spec
        self._requested = requested
        self._indices = [index for index, _ in requested]
        self._plain = not any(classes or spec.outputs[index].data_type is BYTES for index, classes in requested)
        self._frames = lru_cache(maxsize=256)(self._make_frames)

    def encode(self, request_id: str, outputs: Outputs, first: int, end: int) -> bytes:
        """The serialised response with the rows from `first` up to `end`: contents raw, in the order asked for."""
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
        """What stands before the bytes of each output, which depends on nothing but shapes."""
        full = [shapes[index] if whole else (rows, *shapes[index]) for index in self._indices]
        tags = [
            RAW_TAG + varint(math.prod(shape) * self._spec.outputs[index].data_type.dtype.itemsize)
            for shape, index in zip(full, self._indices, strict=True)
        ]
        return [self._head(full) + tags[0], *tags[1:]]

    def _encode_converted(self, request_id: str, outputs: Outputs, first: int, end: int) -> bytes:
        """As encode(), for outputs that do not leave as they came: classes, and strings."""
        spec = self._spec
        chosen = [
            classification_strings(values, count, spec.outputs[index], batches=spec.batches) if count else values
            for index, count in self._requested
            for values in (outputs.rows(index, first, end),)
        ]
        pieces = _id_pieces(request_id)
        pieces.append(self._head([array.shape for array in chosen]))
        for array in chosen:
            raw = _join_bytes(array) if array.dtype.hasobject else array.tobytes()
            pieces += (RAW_TAG, varint(len(raw)), raw)
        return b"".join(pieces)

    def _head(self, shapes: Sequence[tuple[int, ...]]) -> bytes:
        """All of a response but its id and contents."""
        spec = self._spec
        response = ModelInferResponse(model_name=spec.name, model_version=str(spec.version))
        for (index, classes), shape in zip(self._requested, shapes, strict=True):
            tensor = spec.outputs[index]
            datatype = BYTES.name if classes else tensor.data_type.name
            response.outputs.add(name=tensor.name, datatype=datatype, shape=shape)
        return response.SerializeToString()


@lru_cache(maxsize=256)
def encoder_for(spec: ModelSpec, requested: RequestedOutputs) -> ResponseEncoder:
    """The writer of these outputs; the same one for all who want them."""
    return ResponseEncoder(spec, requested)


def stream_response(payload: bytes) -> bytes:
    """The serialised ModelStreamInferResponse with that ModelInferResponse in it."""
    return b"".join((STREAMED_TAG, varint(len(payload)), payload))


def stream_error(request: bytes, error: ServiceError) -> bytes:
    """The serialised ModelStreamInferResponse that says why the request with those bytes has no answer."""
    response = ModelStreamInferResponse(error_message=error.message)
    with contextlib.suppress(DecodeError):
        message = ModelInferRequest.FromString(request)
        response.infer_response.id = message.id
        response.infer_response.model_name = message.model_name
    return response.SerializeToString()


def _join_bytes(texts: NDArray[np.generic]) -> bytes:
    """A raw BYTES tensor."""
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
    """Protobuf's variable-length integer: seven bits a byte, least significant first."""
    result = bytearray()
    while value > 0x7F:
        result.append(value & 0x7F | 0x80)
        value >>= 7
    result.append(value)
    return bytes(result)
