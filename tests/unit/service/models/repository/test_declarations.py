"""Inputs and outputs as config.pbtxt declares them: `reshape` as Triton defines it, and outputs that are left out."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from onnx import TensorProto, helper

from service.core.spec import ModelSpec
from service.pb.model_config_pb2 import ModelTensorReshape
from tests.support.graphs import classifier_model, graph
from tests.support.loading import load_only, refusal
from tests.support.models import add_version, identity_model

Shape = Sequence[int | str]


def declaration(dims: Shape, reshape: Shape | None, *, batches: int) -> str:
    """Configuration of a model from `x` to `y`, both of these dims and with this reshape."""
    shape = "" if reshape is None else f"reshape {{ shape: {list(reshape)} }}"
    tensor = f"data_type: TYPE_FP32 dims: {list(dims)} {shape}"
    return f'max_batch_size: {batches} input {{ name: "x" {tensor} }} output {{ name: "y" {tensor} }}'


def spec_of(repository: Path, graph: Shape, dims: Shape, reshape: Shape, *, batches: int = 0) -> ModelSpec:
    model = identity_model(TensorProto.FLOAT, graph)
    add_version(repository, "m", model, config=declaration(dims, reshape, batches=batches))
    return load_only(repository).spec


@pytest.mark.parametrize(
    ("graph", "dims", "reshape", "batches", "shape", "graph_shape"),
    [
        ([1, 3, 8, 8], [3, 8, 8], [1, 3, 8, 8], 0, (3, 8, 8), (1, 3, 8, 8)),  # Triton's first example
        (["N"], [1], [], 8, (1,), ()),  # Triton's documentation of reshape
        (["N", 4, 2], [8], [4, 2], 8, (8,), (4, 2)),
        (["N", "M", 4], [2, -1, 2], [-1, 4], 8, None, None),
        (["N", "M", 4], [-1, 2, 2], [-1, 4], 8, (-1, 2, 2), (-1, 4)),
        (["A", 6, "B"], [-1, 2, 3, -1, 1], [-1, 6, -1], 0, (-1, 2, 3, -1, 1), (-1, 6, -1)),
        (["N", 5], [-1, 1], [-1], 8, (5, 1), (5,)),  # the graph fixes a free axis
        (["N", "M"], [2, 3], [6], 8, (2, 3), (6,)),  # the configuration fixes one
        ([], [1], [], 0, (1,), ()),
    ],
)
def test_the_dims_are_what_callers_see_and_the_reshape_is_what_the_graph_has(
    tmp_path: Path,
    graph: Shape,
    dims: Shape,
    reshape: Shape,
    batches: int,
    shape: tuple[int, ...] | None,
    graph_shape: tuple[int, ...] | None,
) -> None:
    if shape is None:
        add_version(
            tmp_path, "m", identity_model(TensorProto.FLOAT, graph), config=declaration(dims, reshape, batches=batches)
        )
        assert "differ in their number of elements" in refusal(tmp_path)
        return
    spec = spec_of(tmp_path, graph, dims, reshape, batches=batches)
    for tensor in (*spec.inputs, *spec.outputs):
        assert (tensor.shape, tensor.graph_shape) == (shape, graph_shape)
    assert list(spec.config.input[0].dims) == list(spec.config.output[0].dims) == list(shape)
    assert spec.config.input[0].reshape == spec.config.output[0].reshape == ModelTensorReshape(shape=reshape)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("dims", "reshape", "message"),
    [
        ([3, 8, 8], [3, 8, 8], "input 'x': config.pbtxt says reshape [3, 8, 8], the graph has [1, 3, 8, 8]"),
        ([3, 8, 9], [1, 3, 8, 8], "dims [3, 8, 9] and reshape [1, 3, 8, 8] differ in their number of elements"),
        ([3, 64, -1], [1, 3, 8, 8], "differ in their number of elements"),
        ([-3, -8, 8], [1, 3, 8, 8], "differ in their number of elements"),
        ([3, 8, 8], [], "config.pbtxt says reshape [], the graph has [1, 3, 8, 8]"),
    ],
)
def test_a_reshape_that_does_not_fit_is_refused_and_both_shapes_are_named(
    tmp_path: Path, dims: Shape, reshape: Shape, message: str
) -> None:
    model = identity_model(TensorProto.FLOAT, [1, 3, 8, 8])
    add_version(tmp_path, "m", model, config=declaration(dims, reshape, batches=0))
    assert message in refusal(tmp_path)


# --- outputs that are left out ---


@pytest.mark.parametrize(("batches", "dims"), [(8, "[ ]"), (0, "[ -1 ]")])
def test_an_output_that_the_configuration_leaves_out_is_not_looked_at(tmp_path: Path, batches: int, dims: str) -> None:
    """A ZipMap output has no shape and a type that no response can carry."""
    config = f'max_batch_size: {batches} output {{ name: "label" data_type: TYPE_INT64 dims: {dims} }}'
    add_version(tmp_path, "iris", classifier_model(), config=config)
    assert [output.name for output in load_only(tmp_path).spec.outputs] == ["label"]


@pytest.mark.parametrize("config", [None, "max_batch_size: 8"])
def test_an_output_that_no_response_can_carry_is_refused_with_the_lines_that_leave_it_out(
    tmp_path: Path, config: str | None
) -> None:
    add_version(tmp_path, "iris", classifier_model(), config=config)
    message = refusal(tmp_path)
    assert "output 'prob_map' has type seq(map(int64,tensor(float))), which no response can carry" in message
    lines = message.split("list the others in config.pbtxt: ")[1]
    (tmp_path / "iris" / "config.pbtxt").write_text(f"{config or ''} {lines}")
    assert [output.name for output in load_only(tmp_path).spec.outputs] == ["label"]


def test_the_lines_that_leave_out_an_output_with_a_free_first_axis_are_accepted(tmp_path: Path) -> None:
    """They say nothing of batching, which is not derived from the graph once config.pbtxt lists outputs."""
    nodes = [
        helper.make_node("Cast", ["x"], ["small"], to=TensorProto.FLOAT8E4M3FN),
        helper.make_node("Identity", ["x"], ["y"]),
    ]
    outputs = [
        helper.make_tensor_value_info("small", TensorProto.FLOAT8E4M3FN, ["N", 3]),
        helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3]),
    ]
    add_version(tmp_path, "m", graph(nodes, outputs=outputs).SerializeToString())
    lines = refusal(tmp_path).split("list the others in config.pbtxt: ")[1]
    (tmp_path / "m" / "config.pbtxt").write_text(lines)
    assert [output.name for output in load_only(tmp_path).spec.outputs] == ["y"]


def test_a_name_that_is_no_output_is_still_refused(tmp_path: Path) -> None:
    config = 'max_batch_size: 8 output { name: "labels" data_type: TYPE_INT64 dims: [ ] }'
    add_version(tmp_path, "iris", classifier_model(), config=config)
    assert "differ in output 'labels'" in refusal(tmp_path)
