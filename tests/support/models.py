"""Toy models with known answers, and model repositories."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import onnx
from onnx import TensorProto, helper

BATCHING_CONFIG = "max_batch_size: 8 dynamic_batching { }"


def doubling_model(width: int = 4) -> bytes:
    """`x` FP32 [N, width] → `y` = 2x: exact, and each row is independent of the others."""
    two = helper.make_tensor("two", TensorProto.FLOAT, [], [2.0])
    return toy_model(
        [helper.make_node("Mul", ["x", "two"], ["y"])],
        inputs=[("x", TensorProto.FLOAT, ["N", width])],
        outputs=[("y", TensorProto.FLOAT, ["N", width])],
        constants=[two],
    )


def lookup_model() -> bytes:
    """`index` INT64 [N, 1] → `value` FP32 [N, 1] = 10·index; an index over 9 makes ONNX Runtime fail."""
    table = helper.make_tensor("table", TensorProto.FLOAT, [10], [10.0 * index for index in range(10)])
    return toy_model(
        [helper.make_node("Gather", ["table", "index"], ["value"])],
        inputs=[("index", TensorProto.INT64, ["N", 1])],
        outputs=[("value", TensorProto.FLOAT, ["N", 1])],
        constants=[table],
    )


def adding_model() -> bytes:
    """`a` and `b` INT32 [N, 2] → `sum` and `difference`."""
    return toy_model(
        [helper.make_node("Add", ["a", "b"], ["sum"]), helper.make_node("Sub", ["a", "b"], ["difference"])],
        inputs=[(name, TensorProto.INT32, ["N", 2]) for name in ("a", "b")],
        outputs=[(name, TensorProto.INT32, ["N", 2]) for name in ("sum", "difference")],
    )


def size_dependent_model() -> bytes:
    """`x` FP32 [N, 4] → `y` = x + N/100,000: an answer depends on the batch size, as with real kernels."""
    constants = [
        helper.make_tensor("first", TensorProto.INT64, [], [0]),
        helper.make_tensor("step", TensorProto.FLOAT, [], [1e-5]),
    ]
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Gather", ["shape", "first"], ["rows"]),
        helper.make_node("Cast", ["rows"], ["count"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["count", "step"], ["offset"]),
        helper.make_node("Add", ["x", "offset"], ["y"]),
    ]
    return toy_model(
        nodes,
        inputs=[("x", TensorProto.FLOAT, ["N", 4])],
        outputs=[("y", TensorProto.FLOAT, ["N", 4])],
        constants=constants,
    )


def identity_model(element: int, shape: Sequence[int | str]) -> bytes:
    """`x` → `y` = x, of any element type and shape."""
    return toy_model(
        [helper.make_node("Identity", ["x"], ["y"])], inputs=[("x", element, shape)], outputs=[("y", element, shape)]
    )


def widening_model(width: int) -> bytes:
    """`x` FP32 [N, 1] → `y` [N, width] with x in each column: a small request with a large answer."""
    size = helper.make_tensor("size", TensorProto.INT64, [2], [1, width])
    return toy_model(
        [helper.make_node("Expand", ["x", "size"], ["y"])],
        inputs=[("x", TensorProto.FLOAT, ["N", 1])],
        outputs=[("y", TensorProto.FLOAT, ["N", width])],
        constants=[size],
    )


def cast_model() -> bytes:
    """`images` UINT8 [N, 4] → `probabilities` FP32 [N, 4], the same values: what Client.predict takes and returns."""
    return toy_model(
        [helper.make_node("Cast", ["images"], ["probabilities"], to=TensorProto.FLOAT)],
        inputs=[("images", TensorProto.UINT8, ["N", 4])],
        outputs=[("probabilities", TensorProto.FLOAT, ["N", 4])],
    )


def endless_model() -> bytes:
    """`x` FP32 [N, 4] → `y` = x + 2⁶², one at a time: a graph that can be opened, and whose first run never ends."""
    value = helper.make_tensor_value_info
    body = helper.make_graph(
        [helper.make_node("Identity", ["go_on"], ["goes_on"]), helper.make_node("Add", ["sum", "one"], ["next"])],
        "body",
        [
            value("turn", TensorProto.INT64, []),
            value("go_on", TensorProto.BOOL, []),
            value("sum", TensorProto.FLOAT, None),
        ],
        [value("goes_on", TensorProto.BOOL, []), value("next", TensorProto.FLOAT, None)],
    )
    return toy_model(
        [helper.make_node("Loop", ["turns", "", "x"], ["y"], body=body)],
        inputs=[("x", TensorProto.FLOAT, ["N", 4])],
        outputs=[("y", TensorProto.FLOAT, ["N", 4])],
        constants=[
            helper.make_tensor("turns", TensorProto.INT64, [], [2**62]),
            helper.make_tensor("one", TensorProto.FLOAT, [], [1.0]),
        ],
    )


def toy_model(
    nodes: Sequence[onnx.NodeProto],
    *,
    inputs: Sequence[tuple[str, int, Sequence[int | str]]],
    outputs: Sequence[tuple[str, int, Sequence[int | str]]],
    constants: Sequence[onnx.TensorProto] = (),
) -> bytes:
    """A checked graph of these nodes; tensors are given by name, type and shape."""
    graph = helper.make_graph(
        list(nodes),
        "toy",
        [helper.make_tensor_value_info(*tensor) for tensor in inputs],
        [helper.make_tensor_value_info(*tensor) for tensor in outputs],
        list(constants),
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


def add_version(repository: Path, name: str, model: bytes, *, version: int = 1, config: str | None = None) -> Path:
    """Add a version without a manifest to a repository. Returns the version's folder."""
    folder = repository / name / str(version)
    folder.mkdir(parents=True)
    if config is not None:
        (folder.parent / "config.pbtxt").write_text(config)
    (folder / "model.onnx").write_bytes(model)
    return folder


def routing_config(**values: object) -> str:
    """A configuration with these parameters of routing: `stable`, `canary`, `canary_percent`."""
    return BATCHING_CONFIG + "".join(
        f' parameters {{ key: "{key}" value {{ string_value: "{value}" }} }}' for key, value in values.items()
    )


def copy_repository(source: Path, target: Path) -> Path:
    """Copy a repository, so that a test may change it."""
    shutil.copytree(source, target)
    return target
