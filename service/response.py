"""One answer: arrays → ModelInferResponse bytes.

Owns the reply, of which all that never changes is built once, and classification. It is put together from pieces of
serialised protobuf: https://protobuf.dev/programming-guides/encoding/ says that messages concatenate, field by field.
"""

import contextlib
from functools import lru_cache

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from service.errors import ServiceError
from service.model import Arrays, ModelSpec, TensorSpec, Wanted
from service.pb.inference_pb2 import ModelInferRequest, ModelInferResponse, ModelStreamInferResponse
from service.tensors import BYTES, LENGTH

# Tags of ModelInferResponse's length-delimited fields: number << 3 | 2.
ID_TAG, RAW_TAG = b"\x1a", b"\x32"
# And of ModelStreamInferResponse's infer_response.
STREAMED_TAG = b"\x12"


def write_response(spec: ModelSpec, request_id: str, wanted: Wanted, outputs: Arrays) -> bytes:
    """The serialised ModelInferResponse: contents raw, in the order asked for."""
    chosen = [
        classify(outputs[index], count, spec.outputs[index], batches=spec.batches) if count else outputs[index]
        for index, count in wanted
    ]
    pieces = [_head(spec, wanted, tuple(array.shape for array in chosen))]
    if request_id:
        encoded = request_id.encode()
        pieces += (ID_TAG, _varint(len(encoded)), encoded)
    for array in chosen:
        raw = _join_bytes(array) if array.dtype.hasobject else array.tobytes()
        pieces += (RAW_TAG, _varint(len(raw)), raw)
    return b"".join(pieces)


def streamed(payload: bytes) -> bytes:
    """The serialised ModelStreamInferResponse with that ModelInferResponse in it."""
    return b"".join((STREAMED_TAG, _varint(len(payload)), payload))


def streamed_error(request: bytes, error: ServiceError) -> bytes:
    """The serialised ModelStreamInferResponse that says why the request with those bytes has no answer."""
    response = ModelStreamInferResponse(error_message=error.message)
    with contextlib.suppress(DecodeError):
        message = ModelInferRequest.FromString(request)
        response.infer_response.id = message.id
        response.infer_response.model_name = message.model_name
    return response.SerializeToString()


def classify(values: NDArray[np.generic], count: int, output: TensorSpec, *, batches: bool) -> NDArray[np.generic]:
    """The `count` highest classes of each row, as Triton writes them: "value:index" or "value:index:label".

    values: (rows, …), or (…) where the model does not batch; the result is (rows, count) or (count,).
    Source: https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_classification.md
    """
    rows = values.reshape(len(values), -1) if batches else values.reshape(1, -1)
    numbers = bfloat16_to_float(rows) if output.data_type.name == "BF16" else rows
    best = largest(numbers, count)
    form = "{:f}" if numbers.dtype.kind == "f" else "{:d}"
    texts = np.empty(best.shape, np.object_)
    for place, index in np.ndenumerate(best):
        text = f"{form.format(numbers[place[0], index].item())}:{index}"
        texts[place] = f"{text}:{output.labels[index]}" if index < len(output.labels) else text
    return texts if batches else texts[0]


def largest(values: NDArray[np.generic], count: int) -> NDArray[np.int64]:
    """Where the largest values along the last axis stand, the largest first."""
    return np.argsort(-values.astype(np.float64), axis=-1, kind="stable")[..., :count]


def bfloat16_to_float(bits: NDArray[np.generic]) -> NDArray[np.float32]:
    """BF16, held as uint16, is the upper half of FP32."""
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def _join_bytes(texts: NDArray[np.generic]) -> bytes:
    """A raw BYTES tensor."""
    pieces: list[bytes] = []
    for text in texts.ravel():
        encoded = str(text).encode()
        pieces += (LENGTH.pack(len(encoded)), encoded)
    return b"".join(pieces)


@lru_cache(maxsize=1024)
def _head(spec: ModelSpec, wanted: Wanted, shapes: tuple[tuple[int, ...], ...]) -> bytes:
    """All of a response but its id and contents, which only depends on the model and on the shapes."""
    response = ModelInferResponse(model_name=spec.name, model_version=str(spec.version))
    for (index, classes), shape in zip(wanted, shapes, strict=True):
        tensor = spec.outputs[index]
        datatype = BYTES.name if classes else tensor.data_type.name
        response.outputs.add(name=tensor.name, datatype=datatype, shape=shape)
    return response.SerializeToString()


@lru_cache(maxsize=1024)
def _varint(value: int) -> bytes:
    """Protobuf's variable-length integer: seven bits a byte, least significant first."""
    result = bytearray()
    while value > 0x7F:
        result.append(value & 0x7F | 0x80)
        value >>= 7
    result.append(value)
    return bytes(result)
