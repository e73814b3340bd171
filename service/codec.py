"""One request's tensors: ModelInferRequest bytes → arrays, and arrays → ModelInferResponse bytes.

Owns every check of a request, done once and here, so that nothing behind it meets a tensor it does not expect; and
the reply, of which all that never changes is built once. Does not own: which model is asked, the wire, the queue.

A reply is put together from pieces of serialised protobuf: https://protobuf.dev/programming-guides/encoding/ says
that messages concatenate, field by field.
"""

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from service.batcher import Arrays
from service.errors import InvalidArgument, Unimplemented
from service.model import ModelSpec, TensorSpec
from service.pb.inference_pb2 import InferTensorContents, ModelInferRequest, ModelInferResponse
from service.tensors import CONTENTS_DTYPES

InputTensor = ModelInferRequest.InferInputTensor
# Tags of ModelInferResponse's length-delimited fields: number << 3 | 2.
ID_TAG, RAW_TAG = b"\x1a", b"\x32"


def parse(payload: bytes) -> ModelInferRequest:
    """The message, or InvalidArgument for bytes that are none."""
    try:
        return ModelInferRequest.FromString(payload)
    except DecodeError as error:
        raise InvalidArgument("", "the bytes are no inference.ModelInferRequest") from error


def read_inputs(message: ModelInferRequest, spec: ModelSpec) -> tuple[Arrays, int]:
    """The request's inputs, in the model's order, and how many rows they have.

    Raises:
        InvalidArgument: an input is unknown, missing or repeated, or its type, shape or bytes are not the model's.
    """
    raw = message.raw_input_contents
    tensors = message.inputs
    if raw and len(raw) != len(tensors):
        raise InvalidArgument(
            "raw_input_contents", f"raw_input_contents has {len(raw)} entries for {len(tensors)} inputs"
        )
    if len(tensors) == 1 == len(spec.inputs) and tensors[0].name == spec.inputs[0].name:
        array = read_tensor(tensors[0], raw[0] if raw else None, spec.inputs[0], spec)
        return (array,), len(array) if spec.batches else 1
    arrays = _read_many(tensors, raw, spec)
    rows = {len(array) for array in arrays} if spec.batches else {1}
    if len(rows) > 1:
        raise InvalidArgument("inputs", f"all inputs must have as many rows, got {[len(array) for array in arrays]}")
    return arrays, rows.pop()


def _read_many(tensors: Sequence[InputTensor], raw: Sequence[bytes], spec: ModelSpec) -> Arrays:
    names = [tensor.name for tensor in spec.inputs]
    found: dict[str, NDArray[np.generic]] = {}
    for index, tensor in enumerate(tensors):
        if tensor.name not in names:
            raise InvalidArgument(
                f"inputs[{index}].name", f"model {spec.name!r} has no input {tensor.name!r}; it has {names}"
            )
        if tensor.name in found:
            raise InvalidArgument(f"inputs[{index}].name", f"input {tensor.name!r} is given twice")
        expected = spec.inputs[names.index(tensor.name)]
        found[tensor.name] = read_tensor(tensor, raw[index] if raw else None, expected, spec)
    missing = [name for name in names if name not in found]
    if missing:
        raise InvalidArgument("inputs", f"input {missing[0]!r} is missing; model {spec.name!r} has {names}")
    return tuple(found[name] for name in names)


def read_tensor(tensor: InputTensor, raw: bytes | None, expected: TensorSpec, spec: ModelSpec) -> NDArray[np.generic]:
    """One input as an array: a view of the bytes where they came raw."""
    data_type = expected.data_type
    if tensor.datatype != data_type.name:
        raise _wrong(expected, "datatype", data_type.name, tensor.datatype or "none")
    shape = tuple(tensor.shape)
    _check_shape(shape, expected, spec)
    if tensor.parameters and any(key.startswith("shared_memory") for key in tensor.parameters):
        raise InvalidArgument(
            f"{expected.name}.parameters", f"input {expected.name!r}: shared memory is not offered; send the contents"
        )
    if raw is None:
        if not tensor.HasField("contents"):
            raise InvalidArgument(
                f"{expected.name}.contents", f"input {expected.name!r} has neither contents nor raw_input_contents"
            )
        return _read_typed(tensor.contents, shape, expected)
    if tensor.HasField("contents"):
        raise InvalidArgument(
            f"{expected.name}.contents", f"input {expected.name!r} has both contents and raw_input_contents; send one"
        )
    size = math.prod(shape) * data_type.dtype.itemsize
    if len(raw) != size:
        raise _wrong(expected, "bytes", f"{size} for shape {list(shape)}", str(len(raw)))
    if data_type.dtype == np.bool_:  # a byte that is neither 0 nor 1 is no bool to anything behind
        return np.not_equal(np.frombuffer(raw, np.uint8), 0).reshape(shape)
    return np.frombuffer(raw, data_type.dtype).reshape(shape)


def _check_shape(shape: tuple[int, ...], expected: TensorSpec, spec: ModelSpec) -> None:
    own = shape[1:] if spec.batches else shape
    if own != expected.shape and not (
        len(own) == len(expected.shape)
        and all(want == got or (want == -1 and got > 0) for want, got in zip(expected.shape, own, strict=True))
    ):
        full = [-1, *expected.shape] if spec.batches else list(expected.shape)
        raise _wrong(expected, "shape", str(full), str(list(shape)))
    if not spec.batches:
        return
    if not shape or not 1 <= shape[0] <= spec.max_batch_size:
        rows = shape[0] if shape else "none"
        raise _wrong(expected, "shape", f"1 to {spec.max_batch_size} rows (the model's max_batch_size)", f"{rows} rows")


def _read_typed(contents: InferTensorContents, shape: tuple[int, ...], expected: TensorSpec) -> NDArray[np.generic]:
    data_type = expected.data_type
    if not data_type.contents:
        raise InvalidArgument(
            f"{expected.name}.contents", f"input {expected.name!r}: {data_type.name} travels in raw_input_contents only"
        )
    values = getattr(contents, data_type.contents)
    count = math.prod(shape)
    if len(values) != count:
        raise _wrong(expected, data_type.contents, f"{count} values for shape {list(shape)}", f"{len(values)}")
    wide = np.fromiter(values, CONTENTS_DTYPES[data_type.contents], count)
    if data_type.dtype.kind in "iu":
        limits = np.iinfo(data_type.dtype.name)
        if wide.min() < limits.min or wide.max() > limits.max:
            raise _wrong(
                expected,
                data_type.contents,
                f"values from {limits.min} to {limits.max}",
                f"{wide.min()} to {wide.max()}",
            )
    return wide.astype(data_type.dtype).reshape(shape)


def _wrong(tensor: TensorSpec, what: str, expected: str, got: str) -> InvalidArgument:
    return InvalidArgument(f"{tensor.name}.{what}", f"input {tensor.name!r}: {what} expected {expected}, got {got}")


def read_outputs(message: ModelInferRequest, spec: ModelSpec) -> tuple[int, ...]:
    """Which outputs the request asks for, by index; all of them where it names none.

    Raises:
        InvalidArgument: a name is unknown or repeated.
        Unimplemented: an output is wanted in a form that is not offered.
    """
    asked = message.outputs
    if not asked:
        return spec.all_outputs
    names = [tensor.name for tensor in spec.outputs]
    indices: list[int] = []
    for position, wanted in enumerate(asked):
        if wanted.name not in names:
            raise InvalidArgument(
                f"outputs[{position}].name", f"model {spec.name!r} has no output {wanted.name!r}; it has {names}"
            )
        index = names.index(wanted.name)
        if index in indices:
            raise InvalidArgument(f"outputs[{position}].name", f"output {wanted.name!r} is asked for twice")
        for parameter in wanted.parameters:
            if parameter == "classification" or parameter.startswith("shared_memory"):
                raise Unimplemented(f"output {wanted.name!r}: the parameter {parameter!r} is not offered")
        indices.append(index)
    return tuple(indices)


def write_response(spec: ModelSpec, request_id: str, indices: tuple[int, ...], outputs: Arrays) -> bytes:
    """The serialised ModelInferResponse: contents raw, in the order asked for."""
    chosen = [outputs[index] for index in indices]
    pieces = [_head(spec, indices, tuple(array.shape for array in chosen))]
    if request_id:
        encoded = request_id.encode()
        pieces += (ID_TAG, _varint(len(encoded)), encoded)
    for array in chosen:
        pieces += (RAW_TAG, _varint(array.nbytes), array.tobytes())
    return b"".join(pieces)


@lru_cache(maxsize=1024)
def _head(spec: ModelSpec, indices: tuple[int, ...], shapes: tuple[tuple[int, ...], ...]) -> bytes:
    """All of a response but its id and contents, which only depends on the model and on the shapes."""
    response = ModelInferResponse(model_name=spec.name, model_version=str(spec.version))
    for index, shape in zip(indices, shapes, strict=True):
        tensor = spec.outputs[index]
        response.outputs.add(name=tensor.name, datatype=tensor.data_type.name, shape=shape)
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
