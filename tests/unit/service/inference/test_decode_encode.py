"""Requests are decoded and responses encoded exactly as the protocol says, for every type and size."""

import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from service.core.datatypes import BY_NAME, DATA_TYPES
from service.core.errors import InvalidArgument
from service.core.spec import Arrays, ModelSpec, Outputs, RequestedOutputs, TensorSpec
from service.inference.decode import NO_PARAMETERS, decode_inputs, decode_parameters, decode_requested_outputs, parse
from service.inference.encode import ResponseEncoder
from service.pb.inference_pb2 import ModelInferRequest, ModelInferResponse
from service.pb.model_config_pb2 import ModelConfig
from tests.support.requests import infer_request, outputs_of
from tests.support.spec import spec_of

NAMES = [row.name for row in DATA_TYPES]


def encoded(spec: ModelSpec, requested: RequestedOutputs, arrays: Arrays, request_id: str = "") -> ModelInferResponse:
    """The response, encoded from a whole run and from the middle rows of a batch, which must be the same."""
    whole = ResponseEncoder(spec, requested).encode(request_id, Outputs(arrays, whole=True), 0, len(arrays[0]))
    batch = Outputs(tuple(np.concatenate([array[:1], array, array[:1]]) for array in arrays), whole=False)
    assert ResponseEncoder(spec, requested).encode(request_id, batch, 1, 1 + len(arrays[0])) == whole
    return ModelInferResponse.FromString(whole)


def values_of(datatype: str) -> NDArray[Any]:
    """The extremes of a type, as (2, 3)."""
    dtype = BY_NAME[datatype].dtype
    if datatype == "BYTES":
        return np.array([["", "a", "snow ☃"], ["\0", "b" * 300, "ü"]], np.object_)
    if dtype.kind == "b":
        return np.array([[True, False, True], [False, False, True]])
    limits: Any = np.iinfo(dtype.name) if dtype.kind in "iu" else np.finfo(dtype.name)
    return np.array([[limits.min, limits.max, 1], [0, 1, limits.max]], dtype)


@pytest.mark.parametrize("datatype", NAMES)
def test_every_type_is_decoded_from_raw_contents(datatype: str) -> None:
    values = values_of(datatype)
    request = infer_request("m", x0=values)
    request.inputs[0].datatype = datatype  # BF16 is held as UINT16
    (array,), rows = decode_inputs(request, spec_of(datatype))
    assert rows == 2 and array.dtype == values.dtype
    np.testing.assert_array_equal(array, values)


@pytest.mark.parametrize("datatype", [name for name in NAMES if BY_NAME[name].contents])
def test_every_type_is_decoded_from_typed_contents(datatype: str) -> None:
    values = values_of(datatype)
    request = infer_request("m", x0=values)
    del request.raw_input_contents[:]
    getattr(request.inputs[0].contents, BY_NAME[datatype].contents).extend(
        [value.encode() if isinstance(value, str) else value for value in values.ravel().tolist()]
    )
    (array,), _ = decode_inputs(parse(request.SerializeToString()).message, spec_of(datatype))
    assert array.dtype == values.dtype
    np.testing.assert_array_equal(array, values)


def test_half_precision_can_only_be_sent_raw() -> None:
    request = infer_request("m", x0=np.ones((1, 3), np.float16))
    del request.raw_input_contents[:]
    request.inputs[0].contents.fp32_contents.extend([1, 1, 1])
    with pytest.raises(InvalidArgument, match="FP16 can only be sent in raw_input_contents"):
        decode_inputs(request, spec_of("FP16"))


@pytest.mark.parametrize(("datatype", "value"), [("INT8", 128), ("UINT16", 65536), ("INT16", -32769)])
def test_a_typed_value_out_of_range_is_refused_not_wrapped(datatype: str, value: int) -> None:
    request = ModelInferRequest(model_name="m")
    tensor = request.inputs.add(name="x0", datatype=datatype, shape=[1, 3])
    getattr(tensor.contents, BY_NAME[datatype].contents).extend([0, value, 0])
    with pytest.raises(InvalidArgument, match="expected values from"):
        decode_inputs(request, spec_of(datatype))


def test_every_non_zero_byte_of_a_bool_tensor_is_decoded_as_true() -> None:
    request = infer_request("m", x0=np.zeros((1, 3), np.bool_))
    request.raw_input_contents[0] = b"\x00\x01\x07"
    (array,), _ = decode_inputs(request, spec_of("BOOL"))
    assert array.view(np.uint8).tolist() == [[0, 1, 1]]


def test_inputs_are_put_into_the_models_order_and_must_have_equal_rows() -> None:
    ones, twos = np.ones((2, 3), np.int32), np.full((2, 3), 2, np.int32)
    arrays, rows = decode_inputs(infer_request("m", x1=twos, x0=ones), spec_of("INT32", tensors=2))
    assert rows == 2 and [int(array[0, 0]) for array in arrays] == [1, 2]
    with pytest.raises(InvalidArgument, match="all inputs must have the same number of rows"):
        decode_inputs(infer_request("m", x0=ones, x1=twos[:1]), spec_of("INT32", tensors=2))


def test_a_free_axis_takes_any_size_from_0() -> None:
    spec = spec_of("FP32", (-1, 2))
    for size in (7, 0):
        (array,), _ = decode_inputs(infer_request("m", x0=np.zeros((1, size, 2), np.float32)), spec)
        assert array.shape == (1, size, 2)
    request = infer_request("m", x0=np.zeros((1, 7, 2), np.float32))
    for size in (-1, 2**62):
        request.inputs[0].shape[1] = size
        with pytest.raises(InvalidArgument, match=rf"expected \[-1, -1, 2\], got \[1, {size}, 2\]"):
            decode_inputs(request, spec)


def test_a_model_that_does_not_batch_takes_its_complete_shape() -> None:
    (array,), rows = decode_inputs(
        infer_request("m", x0=np.zeros((2, 3), np.float32)), spec_of("FP32", (2, 3), max_batch_size=0)
    )
    assert (array.shape, rows) == ((2, 3), 1)


def test_a_shape_too_large_for_any_memory_is_refused() -> None:
    request = infer_request("m", x0=np.zeros((1, 3), np.float32))
    request.inputs[0].shape[:] = [1, 2**62]
    with pytest.raises(InvalidArgument, match="shape expected"):
        decode_inputs(request, spec_of("FP32", (-1,)))


def test_outputs_are_answered_in_the_requested_order() -> None:
    spec = spec_of("FP32", tensors=3)
    request = ModelInferRequest(model_name="m")
    assert decode_requested_outputs(request, spec) == ((0, 0), (1, 0), (2, 0))
    for name in ("y2", "y0"):
        request.outputs.add(name=name)
    assert decode_requested_outputs(request, spec) == ((2, 0), (0, 0))


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"\1\0\0", "3 bytes at the end"),
        (b"\5\0\0\0abc", "7 bytes at the end"),
        (b"\1\0\0\0a", "3 elements for shape [1, 3], got 1"),
        (b"\0\0\0\0" * 9, "got more"),
        (b"\1\0\0\0\xff" * 3, "expected UTF-8"),
    ],
)
def test_raw_contents_that_are_not_valid_strings_are_refused(raw: bytes, message: str) -> None:
    request = infer_request("m", x0=np.array([["a", "b", "c"]], np.object_))
    request.raw_input_contents[0] = raw
    with pytest.raises(InvalidArgument, match=re.escape(message)):
        decode_inputs(request, spec_of("BYTES"))


def requested_classes(count: int, datatype: str = "FP32") -> tuple[tuple[int, int], ...]:
    request = ModelInferRequest(model_name="m")
    request.outputs.add(name="y0").parameters["classification"].int64_param = count
    return decode_requested_outputs(request, spec_of(datatype))


def test_classification_gives_the_top_classes_of_each_row_with_their_labels() -> None:
    labelled = TensorSpec("y0", BY_NAME["FP32"], (4,), ("none", "one", "two"))
    spec = ModelSpec("m", 1, (), (labelled,), 8, ModelConfig())
    values = np.array([[0.1, 0.5, 0.25, 0.7], [3, 3, 1, 2]], np.float32)
    response = encoded(spec, requested_classes(2), (values,))
    assert response.outputs[0].datatype == "BYTES" and list(response.outputs[0].shape) == [2, 2]
    assert outputs_of(response)["y0"].tolist() == [
        ["0.700000:3", "0.500000:1:one"],
        ["3.000000:0:none", "3.000000:1:one"],
    ]
    everything = encoded(spec, requested_classes(99), (values,))
    assert list(everything.outputs[0].shape) == [2, 4]


@pytest.mark.parametrize(("datatype", "text"), [("INT32", "9:1"), ("BOOL", "1:1"), ("BF16", "1.500000:1")])
def test_classification_formats_values_of_every_type(datatype: str, text: str) -> None:
    spec = spec_of(datatype, (2,))
    value = {"INT32": 9, "BOOL": 1, "BF16": 0x3FC0}[datatype]
    values = np.array([[0, value]], BY_NAME[datatype].dtype)
    response = encoded(spec, requested_classes(1, datatype), (values,))
    assert outputs_of(response)["y0"].tolist() == [[text]]


def test_classification_into_less_than_one_class_or_of_strings_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="int64_param of at least 1, got 0"):
        requested_classes(0)
    with pytest.raises(InvalidArgument, match="an output of numbers"):
        requested_classes(1, "BYTES")


def with_parameter(name: str, **value: Any) -> ModelInferRequest:
    request = ModelInferRequest(model_name="m")
    for field, content in value.items():
        setattr(request.parameters[name], field, content)
    return request


def test_parameters_are_decoded_and_unknown_ones_are_ignored() -> None:
    assert decode_parameters(with_parameter("timeout", int64_param=1500)).timeout == 0.0015
    assert decode_parameters(with_parameter("priority", uint64_param=3)).priority == 3
    assert decode_parameters(with_parameter("sticky_key", string_param="ann")).sticky_key == "ann"
    assert decode_parameters(with_parameter("anything", bool_param=True)) == NO_PARAMETERS


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("timeout", {"int64_param": -1}, "timeout expected an int64_param of at least 0, got int64_param -1"),
        ("timeout", {"string_param": "1"}, "got string_param '1'"),
        ("priority", {"double_param": 1.0}, "got double_param 1.0"),
        ("triton_secret", {"int64_param": 1}, "'triton_secret' is reserved"),
    ],
)
def test_an_invalid_parameter_is_refused(name: str, value: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgument, match=re.escape(message)) as caught:
        decode_parameters(with_parameter(name, **value))
    assert caught.value.field == f"parameters.{name}"


@given(
    request_id=st.text(st.characters(exclude_categories=["Cs"]), max_size=200),
    sizes=st.lists(st.integers(0, 20_000), min_size=1, max_size=3),
)
def test_a_response_is_what_protobuf_itself_would_serialise(request_id: str, sizes: list[int]) -> None:
    arrays = tuple(np.arange(size, dtype=np.uint8)[None] for size in sizes)
    spec = spec_of("UINT8", (-1,), tensors=len(sizes))
    response = encoded(spec, spec.all_outputs, arrays, request_id)
    expected = ModelInferResponse(model_name="m", model_version="1", id=request_id)
    for index, array in enumerate(arrays):
        expected.outputs.add(name=f"y{index}", datatype="UINT8", shape=array.shape)
        expected.raw_output_contents.append(array.tobytes())
    assert response == expected
    for index, array in enumerate(arrays):
        np.testing.assert_array_equal(outputs_of(response)[f"y{index}"], array)


@given(st.binary(max_size=300))
def test_random_bytes_are_decoded_or_refused(payload: bytes) -> None:
    try:
        decode_inputs(parse(payload).message, spec_of("FP32"))
    except InvalidArgument:
        return
    raise AssertionError("random bytes were decoded as a request of three floats")
