"""Graphs of others: weights in files beside them, rows that depend on each other, outputs of every kind."""

from collections.abc import Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

OPSETS = [helper.make_opsetid("", 20), helper.make_opsetid("ai.onnx.ml", 3)]
Shape = Sequence[int | str]


def graph(
    nodes: Sequence[onnx.NodeProto],
    *,
    shape: Shape = ("N", 3),
    outputs: Sequence[onnx.ValueInfoProto] | None = None,
    constants: Sequence[onnx.TensorProto] = (),
    element: int = TensorProto.FLOAT,
) -> onnx.ModelProto:
    """A graph from `x` of that shape to `y` of the same shape, or to these outputs."""
    x = helper.make_tensor_value_info("x", element, shape)
    y = [helper.make_tensor_value_info("y", element, shape)] if outputs is None else list(outputs)
    body = helper.make_graph(list(nodes), "g", [x], y, list(constants))
    return helper.make_model(body, opset_imports=OPSETS, ir_version=10)


def constant(name: str, value: NDArray[np.generic]) -> onnx.TensorProto:
    """A constant that the graph holds itself."""
    return numpy_helper.from_array(value, name)


def external(name: str, value: NDArray[np.float32], location: str, offset: int = 0) -> onnx.TensorProto:
    """A constant whose elements lie in a file, which the caller writes."""
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=value.shape, data_location=TensorProto.EXTERNAL)
    for key, text in (("location", location), ("offset", str(offset)), ("length", str(value.nbytes))):
        tensor.external_data.add(key=key, value=text)
    return tensor


def weighted_model(location: str = "model.onnx_data") -> tuple[bytes, bytes]:
    """`x` FP32 [N, 3] → `y` = 5x, and the content of the file with its weights."""
    weights = np.full(3, 5, np.float32)
    model = graph([helper.make_node("Mul", ["x", "w"], ["y"])], constants=[external("w", weights, location)])
    return model.SerializeToString(), weights.tobytes()


def centred_model() -> bytes:
    """`x` FP32 [N, 3] → `y` = x less its mean over the first axis, which is time."""
    first = constant("first", np.array([0], np.int64))
    nodes = [helper.make_node("ReduceMean", ["x", "first"], ["mean"]), helper.make_node("Sub", ["x", "mean"], ["y"])]
    return graph(nodes, constants=[first]).SerializeToString()


def classifier_model() -> bytes:
    """`X` FP32 [N, 2] → `label` INT64 [N] and `prob_map`, a map, as scikit-learn exports it."""
    nodes = [
        helper.make_node("ArgMax", ["X"], ["label"], axis=1, keepdims=0),
        helper.make_node("ZipMap", ["X"], ["prob_map"], domain="ai.onnx.ml", classlabels_int64s=[0, 1]),
    ]
    pair = helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, []))
    outputs = [
        helper.make_tensor_value_info("label", TensorProto.INT64, ["N"]),
        helper.make_value_info("prob_map", helper.make_sequence_type_proto(pair)),
    ]
    body = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("X", TensorProto.FLOAT, ["N", 2])], outputs)
    model: bytes = helper.make_model(body, opset_imports=OPSETS, ir_version=10).SerializeToString()
    return model
