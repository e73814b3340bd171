"""Every kind of pooling: its formula, its output size for any window and stride, and its gradient."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from training.networks.pooling import KINDS, AvgTopKPool, LpPool, MixedPool, Pooling

WINDOWS = torch.tensor([[[[1.0, 2, 5, 0], [3, 4, 0, 0], [0, 0, 2, 2], [0, 0, 2, 2]]]])


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("max", [[4, 5], [0, 2]]),
        ("min", [[1, 0], [0, 2]]),
        ("avg", [[2.5, 1.25], [0, 2]]),
        ("lp", [[30**0.5, 5], [0, 4]]),
        ("mixed", [[3.25, 3.125], [0, 2]]),
        ("avg-topk", [[3.5, 2.5], [0, 2]]),
    ],
)
def test_each_kind_of_pooling_computes_its_formula(kind: str, expected: list[list[float]]) -> None:
    pooled = Pooling(kind).layer(1)(WINDOWS)[0, 0]
    torch.testing.assert_close(pooled, torch.tensor(expected, dtype=torch.float32), atol=2e-6, rtol=0)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("max", [[5, 5], [4, 4]]),
        ("min", [[0, 0], [0, 0]]),
        ("avg", [[17 / 9, 15 / 9], [11 / 9, 12 / 9]]),
        ("lp", [[59**0.5, 53**0.5], [33**0.5, 32**0.5]]),
        ("mixed", [[(5 + 17 / 9) / 2, (5 + 15 / 9) / 2], [(4 + 11 / 9) / 2, (4 + 12 / 9) / 2]]),
        ("avg-topk", [[4.5, 4.5], [3.5, 3]]),
    ],
)
def test_windows_of_three_overlap_with_stride_one(kind: str, expected: list[list[float]]) -> None:
    pooled = Pooling(kind, window=3, stride=1).layer(1)(WINDOWS)[0, 0]
    torch.testing.assert_close(pooled, torch.tensor(expected, dtype=torch.float32), atol=2e-6, rtol=0)


def test_stride_is_a_convolution_over_the_same_windows_with_weights_of_its_own() -> None:
    layer = Pooling("stride", window=3, stride=2).layer(8)
    assert isinstance(layer, nn.Conv2d)
    assert (layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride) == (8, 8, (3, 3), (2, 2))
    assert sum(parameter.numel() for parameter in layer.parameters()) == 8 * 8 * 9 + 8


@pytest.mark.parametrize(("kind", "value"), [("global", WINDOWS.mean().item()), ("global-max", 5)])
def test_global_pooling_leaves_one_value_per_feature_map(kind: str, value: float) -> None:
    pooling = Pooling(kind)
    assert pooling.last_layer(1)(WINDOWS).flatten().tolist() == [value]
    torch.testing.assert_close(pooling.layer(1)(WINDOWS), F.max_pool2d(WINDOWS, 2))
    assert pooling.last_output_size(7) == 1 and Pooling("max").last_output_size(7) == 3


@pytest.mark.parametrize(("window", "stride"), [(2, 2), (3, 2), (3, 1), (2, 3), (1, 2)])
@pytest.mark.parametrize("kind", KINDS)
def test_the_output_size_of_pooling_follows_its_formula(kind: str, window: int, stride: int) -> None:
    pooling = Pooling(kind, window, stride)
    for size in range(window, 12):
        expected = (size - window) // stride + 1
        assert pooling.layer(2)(torch.rand(1, 2, size, size)).shape == (1, 2, expected, expected)
        assert pooling.output_size(size) == expected


def test_avg_topk_is_max_pooling_for_k_1_and_average_pooling_for_all_values() -> None:
    x = torch.randn(3, 4, 9, 9)
    for window, stride in ((2, 2), (3, 2)):
        torch.testing.assert_close(AvgTopKPool(window, stride, k=1)(x), F.max_pool2d(x, window, stride))
        torch.testing.assert_close(AvgTopKPool(window, stride, k=window**2)(x), F.avg_pool2d(x, window, stride))
    assert (AvgTopKPool(k=2)(x) >= AvgTopKPool(k=3)(x)).all()


def test_lp_pooling_has_a_finite_gradient_at_zero_and_mixed_pooling_learns_its_weight() -> None:
    zeros = torch.zeros(1, 1, 2, 2, requires_grad=True)
    LpPool()(zeros).sum().backward()
    assert zeros.grad is not None and zeros.grad.isfinite().all()
    mixed = MixedPool()
    mixed(WINDOWS).sum().backward()
    assert mixed.weight.grad is not None and mixed.weight.grad != 0


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_a_deterministic_gradient_with_overlapping_windows(kind: str) -> None:
    torch.manual_seed(0)
    pooling, x = Pooling(kind, window=3, stride=1), torch.rand(2, 3, 8, 8, requires_grad=True)
    layers = [pooling.layer(3), pooling.last_layer(3)]
    torch.use_deterministic_algorithms(True)
    try:
        gradients = [torch.autograd.grad(layer(x).sum(), x)[0] for layer in layers for _ in range(2)]
    finally:
        torch.use_deterministic_algorithms(False)
    assert torch.equal(gradients[0], gradients[1]) and torch.equal(gradients[2], gradients[3])
    assert gradients[0].abs().sum() > 0
