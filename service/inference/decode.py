"""Decodes a ModelInferRequest: bytes to input arrays, requested outputs and parameters.

Owns every check of a request, once and here, so that the layers below get only tensors that the model takes. Not here:
the look-up of the model (handler.py), the response (encode.py), the wire (transport/), the queue (batching/).
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
from service.core.texts import listed, quoted
from service.core.wire import expansion
from service.pb.inference_pb2 import InferTensorContents, ModelInferRequest

InputTensor = ModelInferRequest.InferInputTensor

# The limit on an axis of any size. Longer axes fit into no memory, and NumPy rejects some even if another axis is 0.
MAX_AXIS_SIZE = 2**31


@dataclass(frozen=True)
class Parameters:
    """The parameters of a request that the service reads."""

    timeout: float = 0.0  # limit on the time in the queue, in seconds; 0 for the model's default
    priority: int = 0  # 1 is the highest; 0 for the model's default
    sticky_key: str = ""  # requests with the same key go to the same version


NO_PARAMETERS = Parameters()


@dataclass(slots=True)
class ParsedRequest:
    """A parsed message, and the fields that route it."""

    message: ModelInferRequest
    name: str
    version: str
    id: str
    parameters: Parameters


def parse(payload: bytes) -> ParsedRequest:
    """Parse a ModelInferRequest.

    Raises:
        InvalidArgument: the bytes are not a valid message or would take too much memory, or a parameter is invalid.
    """
    if reason := expansion(payload, ModelInferRequest.RAW_INPUT_CONTENTS_FIELD_NUMBER):
        raise InvalidArgument("", f"the message {reason}: send large tensors as raw_input_contents")
    try:
        message = ModelInferRequest.FromString(payload)
    except DecodeError as error:
        raise InvalidArgument("", "the message is not a valid inference.ModelInferRequest") from error
    return ParsedRequest(message, message.model_name, message.model_version, message.id, decode_parameters(message))


def decode_parameters(message: ModelInferRequest) -> Parameters:
    """The request's parameters; unknown ones are ignored, as in Triton.

    Raises:
        InvalidArgument: a parameter has the wrong type or value, or its name is reserved by Triton.
    """
    parameters = message.parameters
    if not parameters:
        return NO_PARAMETERS
    for name in parameters:
        if name.startswith("triton_") and name != "triton_enable_empty_final_response":
            raise InvalidArgument(f"parameters.{name}", f"the parameter {quoted(name)} is reserved; rename it")
    key = parameters["sticky_key"].string_param if "sticky_key" in parameters else ""
    return Parameters(_non_negative(message, "timeout") * 1e-6, _non_negative(message, "priority"), key)


def _non_negative(message: ModelInferRequest, name: str) -> int:
    """The value of an integer parameter; 0 if the request does not have it."""
    if name not in message.parameters:
        return 0
    parameter = message.parameters[name]
    kind = parameter.WhichOneof("parameter_choice")
    value = getattr(parameter, kind) if kind in ("int64_param", "uint64_param") else None
    if value is None or value < 0:
        got = f"{kind} {quoted(getattr(parameter, kind))}" if kind else "nothing"
        raise InvalidArgument(f"parameters.{name}", f"{name} expected an int64_param of at least 0, got {got}")
    return int(value)


def decode_inputs(message: ModelInferRequest, spec: ModelSpec) -> tuple[Arrays, int]:
    """The request's inputs, in the model's order, and their number of rows.

    Raises:
        InvalidArgument: an input is unknown, missing or repeated, or its type, shape or contents are wrong.
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
    arrays = _decode_by_name(tensors, raw, spec)
    rows = {len(array) for array in arrays} if spec.batches else {1}
    if len(rows) > 1:
        raise InvalidArgument(
            "inputs", f"all inputs must have the same number of rows, got {listed([len(array) for array in arrays])}"
        )
    return arrays, rows.pop()


def _decode_by_name(tensors: Sequence[InputTensor], raw: Sequence[bytes], spec: ModelSpec) -> Arrays:
    """The inputs in the model's order, which may differ from the request's."""
    names = [tensor.name for tensor in spec.inputs]
    arrays: dict[str, NDArray[np.generic]] = {}
    for index, tensor in enumerate(tensors):
        if tensor.name not in names:
            raise _unknown_name(f"inputs[{index}].name", "input", tensor.name, names, spec)
        if tensor.name in arrays:
            raise InvalidArgument(f"inputs[{index}].name", f"input {quoted(tensor.name)} is given twice")
        expected = spec.inputs[names.index(tensor.name)]
        arrays[tensor.name] = decode_tensor(tensor, raw[index] if raw else None, expected, spec)
    missing = [name for name in names if name not in arrays]
    if missing:
        raise InvalidArgument(
            "inputs", f"input {quoted(missing[0])} is missing; model {quoted(spec.name)} has {listed(names)}"
        )
    return tuple(arrays[name] for name in names)


def decode_tensor(tensor: InputTensor, raw: bytes | None, expected: TensorSpec, spec: ModelSpec) -> NDArray[np.generic]:
    """One input as an array; raw contents are viewed, not copied, except BOOL and BYTES."""
    data_type = expected.data_type
    if tensor.datatype != data_type.name:
        raise _mismatch(expected, "datatype", data_type.name, tensor.datatype or "none")
    shape = tuple(tensor.shape)
    _check_shape(shape, expected, spec)
    if tensor.parameters and any(key.startswith("shared_memory") for key in tensor.parameters):
        raise InvalidArgument(
            f"{expected.name}.parameters",
            f"input {quoted(expected.name)}: shared memory is not supported; send the contents",
        )
    if raw is None:
        if not tensor.HasField("contents"):
            raise InvalidArgument(
                f"{expected.name}.contents",
                f"input {quoted(expected.name)} has neither contents nor raw_input_contents",
            )
        return _decode_typed(tensor.contents, shape, expected)
    if tensor.HasField("contents"):
        raise InvalidArgument(
            f"{expected.name}.contents",
            f"input {quoted(expected.name)} has both contents and raw_input_contents; send one",
        )
    if data_type is BYTES:
        return _text_array(_split_bytes(raw, math.prod(shape), shape, expected), shape, expected)
    size = math.prod(shape) * data_type.dtype.itemsize
    if len(raw) != size:
        raise _mismatch(expected, "bytes", f"{size} for shape {listed(shape)}", str(len(raw)))
    if data_type.dtype == np.bool_:  # every non-zero byte becomes 1, the only true value to ONNX Runtime
        return np.not_equal(np.frombuffer(raw, np.uint8), 0).reshape(shape)
    return np.frombuffer(raw, data_type.dtype).reshape(shape)


def _check_shape(shape: tuple[int, ...], expected: TensorSpec, spec: ModelSpec) -> None:
    row_shape = shape[1:] if spec.batches else shape
    if (row_shape != expected.shape or -1 in row_shape) and not (
        len(row_shape) == len(expected.shape)
        and all(
            got == want or (want == -1 and got < MAX_AXIS_SIZE)
            for got, want in zip(row_shape, expected.shape, strict=True)
        )
        and min(row_shape, default=0) >= 0
    ):
        full_shape = [-1, *expected.shape] if spec.batches else list(expected.shape)
        raise _mismatch(expected, "shape", listed(full_shape), listed(shape))
    if not spec.batches:
        return
    if not shape or not 1 <= shape[0] <= spec.max_batch_size:
        rows = shape[0] if shape else "none"
        raise _mismatch(
            expected, "shape", f"1 to {spec.max_batch_size} rows (the model's max_batch_size)", f"{rows} rows"
        )


def _decode_typed(contents: InferTensorContents, shape: tuple[int, ...], expected: TensorSpec) -> NDArray[np.generic]:
    data_type = expected.data_type
    if not data_type.contents:
        raise InvalidArgument(
            f"{expected.name}.contents",
            f"input {quoted(expected.name)}: {data_type.name} can only be sent in raw_input_contents",
        )
    values = getattr(contents, data_type.contents)
    count = math.prod(shape)
    if len(values) != count:
        raise _mismatch(expected, data_type.contents, f"{count} values for shape {listed(shape)}", f"{len(values)}")
    if data_type is BYTES:
        return _text_array(values, shape, expected)
    wide = np.fromiter(values, CONTENTS_DTYPES[data_type.contents], count)
    if count and data_type.dtype.kind in "iu":
        limits = np.iinfo(data_type.dtype.name)
        if wide.min() < limits.min or wide.max() > limits.max:
            raise _mismatch(
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
            raise _mismatch(
                expected, "bytes", "four bytes of length and that number of bytes for each element",
                f"{len(raw) - position} bytes at the end that have another form"
            )  # fmt: skip
        elements.append(raw[start:end])
        position = end
    if len(elements) != count:
        got = "more" if len(elements) > count else str(len(elements))
        raise _mismatch(expected, "bytes", f"{count} elements for shape {listed(shape)}", got)
    return elements


def _text_array(elements: Iterable[bytes], shape: tuple[int, ...], expected: TensorSpec) -> NDArray[np.generic]:
    try:
        array = np.array([element.decode() for element in elements], np.object_)
    except UnicodeDecodeError as error:
        raise _mismatch(expected, "bytes", "UTF-8, as ONNX strings are", repr(error.object[:20])) from error
    return array.reshape(shape)


def _unknown_name(field: str, kind: str, name: str, names: Sequence[str], spec: ModelSpec) -> InvalidArgument:
    return InvalidArgument(
        field, f"model {quoted(spec.name)} has no {kind} {quoted(name)}; it has {listed(names, name)}"
    )


def _mismatch(tensor: TensorSpec, what: str, expected: str, got: str) -> InvalidArgument:
    return InvalidArgument(
        f"{tensor.name}.{what}", f"input {quoted(tensor.name)}: {what} expected {expected}, got {got}"
    )


def decode_requested_outputs(message: ModelInferRequest, spec: ModelSpec) -> RequestedOutputs:
    """The outputs that the request asks for, by values or by top classes; every output in full if it names none.

    Raises:
        InvalidArgument: a name is unknown or repeated, or an output cannot be classified.
    """
    requested = message.outputs
    if not requested:
        return spec.all_outputs
    names = [tensor.name for tensor in spec.outputs]
    classes: dict[int, int] = {}  # by index of the output
    for position, output in enumerate(requested):
        if output.name not in names:
            raise _unknown_name(f"outputs[{position}].name", "output", output.name, names, spec)
        index = names.index(output.name)
        if index in classes:
            raise InvalidArgument(f"outputs[{position}].name", f"output {quoted(output.name)} is requested twice")
        classes[index] = _classes(output, spec.outputs[index]) if output.parameters else 0
    return tuple(classes.items())


def _classes(requested: ModelInferRequest.InferRequestedOutputTensor, output: TensorSpec) -> int:
    """The number of top classes that the request asks for; 0 if it asks for the values."""
    if any(name.startswith("shared_memory") for name in requested.parameters):
        raise InvalidArgument(
            f"{output.name}.parameters", f"output {quoted(output.name)}: shared memory is not supported; leave it out"
        )
    if "classification" not in requested.parameters:
        return 0
    count = requested.parameters["classification"].int64_param
    if count < 1 or output.data_type is BYTES:
        expected, got = ("an int64_param of at least 1", count) if count < 1 else ("an output of numbers", BYTES.name)
        raise InvalidArgument(
            f"{output.name}.classification",
            f"output {quoted(output.name)}: classification expected {expected}, got {got}",
        )
    return min(count, 2**31)
