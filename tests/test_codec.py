"""Requests are read and replies written exactly as the protocol says, for every type and size."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from service.codec import parse, read_inputs, read_outputs, write_response
from service.errors import InvalidArgument
from service.model import ModelSpec, TensorSpec
from service.pb.inference_pb2 import ModelInferRequest, ModelInferResponse
from service.pb.model_config_pb2 import ModelConfig
from service.tensors import BY_NAME, DATA_TYPES
from tests.support import infer_request, outputs_of

NAMES = [row.name for row in DATA_TYPES]


def spec_of(datatype: str, shape: tuple[int, ...] = (3,), *, max_batch_size: int = 8, tensors: int = 1) -> ModelSpec:
    """A model whose inputs `x0`… and outputs `y0`… all have that type and shape."""
    data_type = BY_NAME[datatype]
    inputs = tuple(TensorSpec(f"x{index}", data_type, shape) for index in range(tensors))
    outputs = tuple(TensorSpec(f"y{index}", data_type, shape) for index in range(tensors))
    return ModelSpec("m", 1, inputs, outputs, max_batch_size, ModelConfig())


def values_of(datatype: str) -> NDArray[Any]:
    """The extremes of a type, as (2, 3)."""
    dtype = BY_NAME[datatype].dtype
    if dtype.kind == "b":
        return np.array([[True, False, True], [False, False, True]])
    limits: Any = np.iinfo(dtype.name) if dtype.kind in "iu" else np.finfo(dtype.name)
    return np.array([[limits.min, limits.max, 1], [0, 1, limits.max]], dtype)


@pytest.mark.parametrize("datatype", NAMES)
def test_every_type_is_read_raw(datatype: str) -> None:
    values = values_of(datatype)
    (array,), rows = read_inputs(infer_request("m", x0=values), spec_of(datatype))
    assert rows == 2 and array.dtype == values.dtype
    np.testing.assert_array_equal(array, values)


@pytest.mark.parametrize("datatype", [name for name in NAMES if BY_NAME[name].contents])
def test_every_type_is_read_typed(datatype: str) -> None:
    values = values_of(datatype)
    request = infer_request("m", x0=values)
    del request.raw_input_contents[:]
    getattr(request.inputs[0].contents, BY_NAME[datatype].contents).extend(values.ravel().tolist())
    (array,), _ = read_inputs(parse(request.SerializeToString()), spec_of(datatype))
    assert array.dtype == values.dtype
    np.testing.assert_array_equal(array, values)


def test_half_precision_travels_raw_only() -> None:
    request = infer_request("m", x0=np.ones((1, 3), np.float16))
    del request.raw_input_contents[:]
    request.inputs[0].contents.fp32_contents.extend([1, 1, 1])
    with pytest.raises(InvalidArgument, match="FP16 travels in raw_input_contents only"):
        read_inputs(request, spec_of("FP16"))


@pytest.mark.parametrize(("datatype", "value"), [("INT8", 128), ("UINT16", 65536), ("INT16", -32769)])
def test_a_typed_value_that_does_not_fit_is_refused_not_wrapped(datatype: str, value: int) -> None:
    request = ModelInferRequest(model_name="m")
    tensor = request.inputs.add(name="x0", datatype=datatype, shape=[1, 3])
    getattr(tensor.contents, BY_NAME[datatype].contents).extend([0, value, 0])
    with pytest.raises(InvalidArgument, match="expected values from"):
        read_inputs(request, spec_of(datatype))


def test_a_byte_that_is_neither_true_nor_false_is_read_as_true() -> None:
    request = infer_request("m", x0=np.zeros((1, 3), np.bool_))
    request.raw_input_contents[0] = b"\x00\x01\x07"
    (array,), _ = read_inputs(request, spec_of("BOOL"))
    assert array.view(np.uint8).tolist() == [[0, 1, 1]]


def test_inputs_are_put_into_the_models_order_and_must_agree_in_rows() -> None:
    one, two = np.ones((2, 3), np.int32), np.full((2, 3), 2, np.int32)
    arrays, rows = read_inputs(infer_request("m", x1=two, x0=one), spec_of("INT32", tensors=2))
    assert rows == 2 and [int(array[0, 0]) for array in arrays] == [1, 2]
    with pytest.raises(InvalidArgument, match="all inputs must have as many rows"):
        read_inputs(infer_request("m", x0=one, x1=two[:1]), spec_of("INT32", tensors=2))


def test_a_free_axis_takes_any_size_but_none_below_1() -> None:
    spec = spec_of("FP32", (-1, 2))
    (array,), _ = read_inputs(infer_request("m", x0=np.zeros((1, 7, 2), np.float32)), spec)
    assert array.shape == (1, 7, 2)
    with pytest.raises(InvalidArgument, match=r"expected \[-1, -1, 2\], got \[1, 0, 2\]"):
        read_inputs(infer_request("m", x0=np.zeros((1, 0, 2), np.float32)), spec)


def test_a_model_that_does_not_batch_takes_its_whole_shape() -> None:
    (array,), rows = read_inputs(
        infer_request("m", x0=np.zeros((2, 3), np.float32)), spec_of("FP32", (2, 3), max_batch_size=0)
    )
    assert (array.shape, rows) == ((2, 3), 1)


def test_a_shape_too_large_for_any_memory_is_refused_by_its_length() -> None:
    request = infer_request("m", x0=np.zeros((1, 3), np.float32))
    request.inputs[0].shape[:] = [1, 2**62]
    with pytest.raises(InvalidArgument, match="bytes expected"):
        read_inputs(request, spec_of("FP32", (-1,)))


def test_outputs_are_answered_in_the_order_asked_for() -> None:
    spec = spec_of("FP32", tensors=3)
    request = ModelInferRequest(model_name="m")
    assert read_outputs(request, spec) == (0, 1, 2)
    for name in ("y2", "y0"):
        request.outputs.add(name=name)
    assert read_outputs(request, spec) == (2, 0)


@given(
    request_id=st.text(st.characters(exclude_categories=["Cs"]), max_size=200),
    sizes=st.lists(st.integers(0, 20_000), min_size=1, max_size=3),
)
def test_a_reply_is_what_protobuf_itself_would_write(request_id: str, sizes: list[int]) -> None:
    arrays = tuple(np.arange(size, dtype=np.uint8)[None] for size in sizes)
    spec = spec_of("UINT8", (-1,), tensors=len(sizes))
    indices = tuple(range(len(sizes)))
    response = ModelInferResponse.FromString(write_response(spec, request_id, indices, arrays))
    expected = ModelInferResponse(model_name="m", model_version="1", id=request_id)
    for index, array in enumerate(arrays):
        expected.outputs.add(name=f"y{index}", datatype="UINT8", shape=array.shape)
        expected.raw_output_contents.append(array.tobytes())
    assert response == expected
    for index, array in enumerate(arrays):
        np.testing.assert_array_equal(outputs_of(response)[f"y{index}"], array)


@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(payload: bytes) -> None:
    try:
        read_inputs(parse(payload), spec_of("FP32"))
    except InvalidArgument:
        return
    raise AssertionError("random bytes made a request of three floats")
