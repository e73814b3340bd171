"""One request: ModelInferRequest bytes → arrays, and what is asked about them.

Owns every check of a request, done once and here, so that nothing behind it meets a tensor it does not expect. Does
not own: which model is asked, the answer (response.py), the wire, the queue.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from service.core.datatypes import BYTES, CONTENTS_DTYPES, ELEMENT_LENGTH
from service.core.errors import InvalidArgument
from service.core.spec import Arrays, ModelSpec, RequestedOutputs, TensorSpec
from service.pb.inference_pb2 import InferTensorContents, ModelInferRequest

InputTensor = ModelInferRequest.InferInputTensor

# Longer ones fit into no memory, and NumPy has no shape for some of them even if another axis is 0.
LONGEST_AXIS = 2**31


@dataclass(frozen=True)
class Parameters:
    """What a request says beside its tensors."""

    timeout: float = 0.0  # seconds that it may wait in the queue; 0 for no limit of its own
    priority: int = 0  # 1 is served first; 0 takes the model's default
    sticky_key: str = ""  # requests with equal keys go to the same version


NO_PARAMETERS = Parameters()


@dataclass(slots=True)
class ParsedRequest:
    """A parsed message, and what routes it."""

    message: ModelInferRequest
    name: str
    version: str
    id: str
    parameters: Parameters


def parse(payload: bytes) -> ParsedRequest:
    """Parse a ModelInferRequest.

    Raises:
        InvalidArgument: the bytes are not a message of that type, or a parameter is invalid.
    """
    try:
        message = ModelInferRequest.FromString(payload)
    except DecodeError as error:
        raise InvalidArgument("", "the bytes are no inference.ModelInferRequest") from error
    return ParsedRequest(message, message.model_name, message.model_version, message.id, decode_parameters(message))


def decode_parameters(message: ModelInferRequest) -> Parameters:
    """The request's parameters; those that mean nothing here are passed over, as Triton does.

    Raises:
        InvalidArgument: one has the wrong type or value, or is one of Triton's own.
    """
    parameters = message.parameters
    if not parameters:
        return NO_PARAMETERS
    for name in parameters:
        if name.startswith("triton_") and name != "triton_enable_empty_final_response":
            raise InvalidArgument(f"parameters.{name}", f"the parameter {name!r} is reserved; rename it")
    key = parameters["sticky_key"].string_param if "sticky_key" in parameters else ""
    return Parameters(_natural(message, "timeout") * 1e-6, _natural(message, "priority"), key)


def _natural(message: ModelInferRequest, name: str) -> int:
    if name not in message.parameters:
        return 0
    parameter = message.parameters[name]
    kind = parameter.WhichOneof("parameter_choice")
    value = getattr(parameter, kind) if kind in ("int64_param", "uint64_param") else None
    if value is None or value < 0:
        got = f"{kind} {getattr(parameter, kind)!r}" if kind else "nothing"
        raise InvalidArgument(f"parameters.{name}", f"{name} expected an int64_param from 0, got {got}")
    return int(value)


def decode_inputs(message: ModelInferRequest, spec: ModelSpec) -> tuple[Arrays, int]:
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
        array = decode_tensor(tensors[0], raw[0] if raw else None, spec.inputs[0], spec)
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
        found[tensor.name] = decode_tensor(tensor, raw[index] if raw else None, expected, spec)
    missing = [name for name in names if name not in found]
    if missing:
        raise InvalidArgument("inputs", f"input {missing[0]!r} is missing; model {spec.name!r} has {names}")
    return tuple(found[name] for name in names)


def decode_tensor(tensor: InputTensor, raw: bytes | None, expected: TensorSpec, spec: ModelSpec) -> NDArray[np.generic]:
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
    if data_type is BYTES:
        return _text_array(_split_bytes(raw, math.prod(shape), shape, expected), shape, expected)
    size = math.prod(shape) * data_type.dtype.itemsize
    if len(raw) != size:
        raise _wrong(expected, "bytes", f"{size} for shape {list(shape)}", str(len(raw)))
    if data_type.dtype == np.bool_:  # a byte that is neither 0 nor 1 is no bool to anything behind
        return np.not_equal(np.frombuffer(raw, np.uint8), 0).reshape(shape)
    return np.frombuffer(raw, data_type.dtype).reshape(shape)


def _check_shape(shape: tuple[int, ...], expected: TensorSpec, spec: ModelSpec) -> None:
    own = shape[1:] if spec.batches else shape
    if (own != expected.shape or -1 in own) and not (
        len(own) == len(expected.shape)
        and all(
            got == want or (want == -1 and got < LONGEST_AXIS) for got, want in zip(own, expected.shape, strict=True)
        )
        and min(own, default=0) >= 0
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
    if data_type is BYTES:
        return _text_array(values, shape, expected)
    wide = np.fromiter(values, CONTENTS_DTYPES[data_type.contents], count)
    if count and data_type.dtype.kind in "iu":
        limits = np.iinfo(data_type.dtype.name)
        if wide.min() < limits.min or wide.max() > limits.max:
            raise _wrong(
                expected,
                data_type.contents,
                f"values from {limits.min} to {limits.max}",
                f"{wide.min()} to {wide.max()}",
            )
    return wide.astype(data_type.dtype).reshape(shape)


def _split_bytes(raw: bytes, count: int, shape: tuple[int, ...], expected: TensorSpec) -> list[bytes]:
    """The elements of a raw BYTES tensor."""
    elements: list[bytes] = []
    position = 0
    while position < len(raw) and len(elements) <= count:
        start = position + ELEMENT_LENGTH.size
        end = start + ELEMENT_LENGTH.unpack_from(raw, position)[0] if start <= len(raw) else len(raw) + 1
        if end > len(raw):
            raise _wrong(
                expected, "bytes", "four bytes of length and then as many bytes, for each element",
                f"{len(raw) - position} bytes at the end that are not that"
            )  # fmt: skip
        elements.append(raw[start:end])
        position = end
    if len(elements) != count:
        found = "more" if len(elements) > count else str(len(elements))
        raise _wrong(expected, "bytes", f"{count} elements for shape {list(shape)}", found)
    return elements


def _text_array(elements: Iterable[bytes], shape: tuple[int, ...], expected: TensorSpec) -> NDArray[np.generic]:
    try:
        array = np.array([element.decode() for element in elements], np.object_)
    except UnicodeDecodeError as error:
        raise _wrong(expected, "bytes", "UTF-8, as all strings of ONNX", repr(error.object[:20])) from error
    return array.reshape(shape)


def _wrong(tensor: TensorSpec, what: str, expected: str, got: str) -> InvalidArgument:
    return InvalidArgument(f"{tensor.name}.{what}", f"input {tensor.name!r}: {what} expected {expected}, got {got}")


def decode_requested_outputs(message: ModelInferRequest, spec: ModelSpec) -> RequestedOutputs:
    """Which outputs the request asks for, and in which form; all of them as they are where it names none.

    Raises:
        InvalidArgument: a name is unknown or repeated, or an output cannot be had in that form.
    """
    asked = message.outputs
    if not asked:
        return spec.all_outputs
    names = [tensor.name for tensor in spec.outputs]
    wanted: dict[int, int] = {}
    for position, output in enumerate(asked):
        if output.name not in names:
            raise InvalidArgument(
                f"outputs[{position}].name", f"model {spec.name!r} has no output {output.name!r}; it has {names}"
            )
        index = names.index(output.name)
        if index in wanted:
            raise InvalidArgument(f"outputs[{position}].name", f"output {output.name!r} is asked for twice")
        wanted[index] = _classes(output, spec.outputs[index]) if output.parameters else 0
    return tuple(wanted.items())


def _classes(asked: ModelInferRequest.InferRequestedOutputTensor, output: TensorSpec) -> int:
    """How many classes of the output are asked for; 0 if its values are."""
    if any(name.startswith("shared_memory") for name in asked.parameters):
        raise InvalidArgument(
            f"{output.name}.parameters", f"output {output.name!r}: shared memory is not offered; leave it out"
        )
    if "classification" not in asked.parameters:
        return 0
    count = asked.parameters["classification"].int64_param
    if count < 1 or output.data_type is BYTES:
        expected = "an output of numbers" if count >= 1 else "an int64_param of at least 1"
        raise InvalidArgument(
            f"{output.name}.classification",
            f"output {output.name!r}: classification expected {expected}, got {count} of {output.data_type.name}",
        )
    return min(count, 2**31)
