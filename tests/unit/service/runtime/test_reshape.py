"""Reshapes between the shape that callers see and the shape in the graph."""

import numpy as np
import pytest

from service.core.datatypes import BY_NAME
from service.core.spec import ModelSpec, TensorSpec
from service.pb.model_config_pb2 import ModelConfig
from service.runtime.reshape import Reshapes, in_graph


def spec(shape: tuple[int, ...], graph_shape: tuple[int, ...] | None, *, max_batch_size: int) -> ModelSpec:
    tensor = TensorSpec("x", BY_NAME["FP32"], shape, graph_shape=graph_shape)
    return ModelSpec("m", 1, (tensor,), (tensor,), max_batch_size, ModelConfig())


@pytest.mark.parametrize(
    ("shape", "graph_shape", "batches", "seen", "in_the_graph"),
    [
        ((3, 2), (1, 3, 2), False, (3, 2), (1, 3, 2)),
        ((1,), (), True, (5, 1), (5,)),
        ((-1, 2, -1), (2, -1, -1, 1), True, (5, 3, 2, 7), (5, 2, 3, 7, 1)),
        ((-1, 4), (-1, 2, 2), False, (0, 4), (0, 2, 2)),
    ],
)
def test_free_axes_keep_their_sizes_and_their_order(
    shape: tuple[int, ...],
    graph_shape: tuple[int, ...],
    batches: bool,
    seen: tuple[int, ...],
    in_the_graph: tuple[int, ...],
) -> None:
    reshapes = Reshapes(spec(shape, graph_shape, max_batch_size=8 if batches else 0))
    x = np.arange(np.prod(seen), dtype=np.float32).reshape(seen)
    (inside,) = reshapes.to_graph((x,))
    assert reshapes and inside.shape == in_the_graph
    (outside,) = reshapes.from_graph([inside])
    np.testing.assert_array_equal(outside, x)
    assert outside.size == 0 or np.shares_memory(outside, x)


def test_a_model_without_reshapes_has_none() -> None:
    plain = spec((3,), None, max_batch_size=8)
    assert not Reshapes(plain) and in_graph(plain.inputs[0]) is plain.inputs[0]
