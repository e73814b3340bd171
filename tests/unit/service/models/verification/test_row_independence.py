"""Whether rows are independent, found by trial: graphs of every kind, and engines that are functions."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from service.core.datatypes import BY_NAME
from service.core.errors import EngineLost
from service.core.load_errors import GraphError
from service.core.spec import Arrays, ModelSpec, TensorSpec
from service.models.loader import LoadedModel
from service.models.verification.row_independence import Finding, compare_rows
from service.pb.model_config_pb2 import ModelConfig
from tests.support.graphs import centred_model, constant, graph
from tests.support.loading import load_only, refusal
from tests.support.models import add_version, doubling_model, identity_model, lookup_model, size_dependent_model

BATCHING = "max_batch_size: 8 dynamic_batching { preferred_batch_size: 4 }"
INDEPENDENT = Finding()
first = constant("first", np.array([0], np.int64))
scalar = constant("scalar", np.array(0, np.int64))


def node(operator: str, inputs: str, output: str = "y", **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(operator, inputs.split(), [output], **attributes)


def side_output(shape: Sequence[int | str]) -> list[onnx.ValueInfoProto]:
    return [
        helper.make_tensor_value_info("y", TensorProto.FLOAT, ("N", 3)),
        helper.make_tensor_value_info("side", TensorProto.FLOAT, shape),
    ]


# Graphs from `x` FP32 [N, 3] whose answers for a row depend on the others.
DEPENDENT = {
    "time is the first axis": centred_model(),
    "softmax over the batch": graph([node("Softmax", "x", axis=0)]).SerializeToString(),
    "sum of the rows so far": graph([node("CumSum", "x scalar")], constants=[scalar]).SerializeToString(),
    "scaled by the batch's largest value": graph(
        [node("ReduceMax", "x first", "max"), node("Div", "x max")], constants=[first]
    ).SerializeToString(),
    "batch normalisation in training mode": graph(
        [
            helper.make_node(
                "BatchNormalization", ["x", "scale", "bias", "m", "v"], ["y", "mean", "var"], training_mode=1
            )
        ],
        # ONNX Runtime keeps equal constants once and writes the running mean and variance into them: answers drift.
        constants=[
            constant(name, np.full(3, name in ("scale", "v"), np.float32)) for name in ("scale", "bias", "m", "v")
        ],
    ).SerializeToString(),
    "quantised by the batch's range": graph(
        [
            helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "scale", "zero"]),
            node("DequantizeLinear", "q scale zero"),
        ]
    ).SerializeToString(),
    "sorted rows": graph(
        [helper.make_node("TopK", ["x", "rows"], ["y", "order"], axis=0), node("Shape", "x", "rows", end=1)][::-1]
    ).SerializeToString(),
    "some of the rows": graph(
        [
            node("Identity", "x"),
            node("ReduceMean", "x last", "means", keepdims=0),
            node("Greater", "means zero", "wanted"),
            node("Compress", "x wanted", "side", axis=0),
        ],
        outputs=side_output(["M", 3]),
        constants=[constant("last", np.array([1], np.int64)), constant("zero", np.array(0, np.float32))],
    ).SerializeToString(),
}
# Graphs whose rows are independent.
ROWS = {
    "a product": doubling_model(3),
    "softmax over the classes": graph([node("Softmax", "x", axis=1)]).SerializeToString(),
    "the logarithm of negative numbers": graph([node("Log", "x")]).SerializeToString(),
    "an index into a table": lookup_model(),
    "rounding that differs with the size": size_dependent_model(),
    **{
        name: identity_model(getattr(TensorProto, name), ["N", 2])
        for name in ("BOOL", "UINT8", "INT8", "INT64", "UINT64", "FLOAT16", "BFLOAT16", "DOUBLE", "STRING")
    },
    "free axes": identity_model(TensorProto.FLOAT, ["N", "M", "K"]),
}


def load_configured(repository: Path, model: bytes, config: str | None) -> LoadedModel:
    add_version(repository, "m", model, config=config)
    return load_only(repository)


@pytest.mark.parametrize("config", [None, BATCHING], ids=["derived", "configured"])
@pytest.mark.parametrize("model", DEPENDENT.values(), ids=list(DEPENDENT))
def test_a_graph_whose_rows_depend_on_each_other_is_not_batched_and_says_so(
    tmp_path: Path, model: bytes, config: str | None
) -> None:
    loaded = load_configured(tmp_path, model, config)
    policy = loaded.batcher.policy
    assert (policy.max_batch_size, list(policy.sizes), policy.preferred) == (1, [], frozenset())
    (warning,) = loaded.warnings
    assert warning.startswith("not batched, every request runs alone: output '")


@pytest.mark.parametrize("config", [None, BATCHING], ids=["derived", "configured"])
@pytest.mark.parametrize("model", ROWS.values(), ids=list(ROWS))
def test_a_graph_whose_rows_are_independent_is_batched(tmp_path: Path, model: bytes, config: str | None) -> None:
    loaded = load_configured(tmp_path, model, config)
    assert (loaded.batcher.policy.max_batch_size, loaded.warnings) == (8 if config else 4, ())


def test_a_derived_model_gets_its_first_axis_back_and_a_configured_one_keeps_its_configuration(tmp_path: Path) -> None:
    derived = load_configured(tmp_path / "a", centred_model(), None).spec
    assert (derived.max_batch_size, derived.inputs[0].shape) == (0, (-1, 3))
    assert not derived.config.HasField("dynamic_batching")
    configured = load_configured(tmp_path / "b", centred_model(), BATCHING).spec
    assert (configured.max_batch_size, configured.inputs[0].shape) == (8, (3,))


def test_nothing_is_compared_if_no_batches_are_formed(tmp_path: Path) -> None:
    assert load_configured(tmp_path, centred_model(), "max_batch_size: 8").warnings == ()


STRICT = ' parameters { key: "strict" value { string_value: "true" } }'


def test_strict_is_refused_if_rows_depend_on_each_other(tmp_path: Path) -> None:
    add_version(tmp_path, "m", centred_model(), config=BATCHING + STRICT)
    assert "strict requires the same bits alone and in a batch, but output 'y' of a row" in refusal(tmp_path)


def test_strict_is_kept_if_answers_depend_on_the_size_alone(tmp_path: Path) -> None:
    """Strict pads every batch to one size."""
    loaded = load_configured(tmp_path, size_dependent_model(), BATCHING + STRICT)
    assert loaded.batcher.policy.sizes == [8] and loaded.warnings == ()


# --- what cannot be compared ---

NOISE = graph([node("RandomNormalLike", "x")], shape=("N", 64)).SerializeToString()  # 64: no two runs agree by chance
# Runs on a square of free axes alone, which no trial has.
DEMANDING = graph(
    [node("Shape", "x", "shape"), node("Expand", "x wanted", "z"), node("Identity", "z")],
    shape=("N", "M"),
    constants=[constant("wanted", np.array([1, 7], np.int64))],
)
DEMANDING.graph.node[2].CopyFrom(node("Reshape", "z rows"))
DEMANDING.graph.initializer.append(constant("rows", np.array([0, 77], np.int64)))


@pytest.mark.parametrize("model", [NOISE, DEMANDING.SerializeToString()], ids=["random", "cannot run"])
def test_what_cannot_be_compared_is_batched_only_if_the_configuration_asks_for_it(tmp_path: Path, model: bytes) -> None:
    derived = load_configured(tmp_path / "a", model, None)
    assert derived.batcher.policy.max_batch_size == 1
    assert "every request runs alone: whether rows are independent is unknown: " in derived.warnings[0]
    assert "set max_batch_size and dynamic_batching in config.pbtxt" in derived.warnings[0]
    configured = load_configured(tmp_path / "b", model, BATCHING)
    assert configured.batcher.policy.max_batch_size == 8
    assert configured.warnings[0].startswith("batched, as config.pbtxt says, but whether rows are independent")


# --- engines that are functions ---


def found(run: Callable[[NDArray[np.float32]], object], *, sizes: Sequence[int] = (1, 2, 4, 8)) -> Finding:
    """The finding on a model from FP32 [N, 2] to FP32 [N, 2] that is computed by this function."""
    tensor = TensorSpec("x", BY_NAME["FP32"], (2,))
    spec = ModelSpec("m", 1, (tensor,), (tensor,), max(sizes), ModelConfig())
    return compare_rows(spec, lambda inputs: [np.asarray(run(inputs[0]), np.float32)], sizes)  # type: ignore[arg-type]


@pytest.mark.parametrize("least", range(2, 9))
def test_a_difference_from_any_size_on_is_found(least: int) -> None:
    assert found(lambda x: x + (len(x) >= least)).dependent


def test_a_difference_in_odd_sizes_alone_is_found() -> None:
    assert "in a batch of 3" in found(lambda x: x + (len(x) > 1 and len(x) % 2)).dependent


def test_a_small_influence_of_other_rows_on_a_large_value_is_found() -> None:
    """A ten-thousandth of the value: less than kernels of different sizes may differ by."""
    assert "changes with the other rows" in found(lambda x: 1000 * x + 0.1 * x.mean(0)).dependent


def test_a_difference_between_sizes_as_kernels_have_it_is_no_dependence() -> None:
    assert found(lambda x: x * (1 + 1e-4 * len(x))) == INDEPENDENT


def test_nan_and_infinity_equal_themselves() -> None:
    assert found(lambda x: np.where(x > 0, np.nan, np.inf)) == INDEPENDENT


def test_answers_that_are_all_equal_are_tried_with_other_values() -> None:
    """The answer is constant for inputs outside 0 to 1, as most normal ones are, and depends on the batch inside."""

    def run(x: NDArray[np.float32]) -> NDArray[np.float32]:
        inside = ((x >= 0) & (x <= 1)).all()
        return x - x.mean(0) if inside else np.zeros_like(x)

    assert found(run).dependent


def test_a_batch_that_cannot_run_where_its_rows_can_is_a_dependence() -> None:
    def run(x: NDArray[np.float32]) -> NDArray[np.float32]:
        if len(x) > 2:
            raise ValueError("too many rows")
        return x

    assert "rows that run alone do not run in a batch of 3: " in found(run).dependent


def test_every_size_is_run_which_warms_the_engine_up() -> None:
    sizes = set()
    assert found(lambda x: [sizes.add(len(x)), x][1], sizes=[1, 2, 4, 8, 16, 24]) == INDEPENDENT  # type: ignore[func-returns-value]
    assert sizes == {1, 2, 3, 4, 8, 16, 24}


def test_a_lost_engine_refuses_the_version() -> None:
    def lost(_: Arrays) -> Sequence[NDArray[np.generic]]:
        raise EngineLost("CUDA failure 700")

    tensor = TensorSpec("x", BY_NAME["FP32"], (2,))
    with pytest.raises(GraphError, match="the engine is lost"):
        compare_rows(ModelSpec("m", 1, (tensor,), (tensor,), 4, ModelConfig()), lost, [1, 2, 4])


def test_the_same_rows_are_tried_each_time() -> None:
    seen: list[bytes] = []
    for _ in range(2):
        found(lambda x: [seen.append(x.tobytes()), x][1])  # type: ignore[func-returns-value]
    assert seen == seen[: len(seen) // 2] * 2


def test_a_dependence_is_told_from_the_noise_of_a_graph_that_draws_random_numbers() -> None:
    generator = np.random.default_rng(1)
    assert found(lambda x: x + 0.01 * generator.standard_normal(x.shape)).unknown
    assert found(lambda x: x - x.mean(0) + 0.01 * generator.standard_normal(x.shape)).dependent
