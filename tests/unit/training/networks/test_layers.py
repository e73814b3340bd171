"""The layer table of a network of any shape: geometry, sizes, receptive fields, and weights counted once."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training import summary
from training.networks.layers import HEADER, LayerSummary, layer_summaries, table_rows
from training.networks.pooling import Pooling
from training.networks.receptive_field import MAX_SIDE, receptive_fields
from training.networks.registry import NETWORKS


def column(layers: list[LayerSummary], name: str) -> list[str]:
    """A column of the table."""
    return [layer.cells[HEADER.index(name)] for layer in layers]


def test_the_summary_has_a_header_a_line_per_layer_the_total_and_the_formula() -> None:
    lines = summary.network_summary("cifar10-lenet", Pooling()).splitlines()
    assert [line.split("  ")[0].strip() for line in lines[:2]] == ["layer", "Conv 3→6, 5×5"]
    assert lines[1].split()[-8:] == ["5×5", "1", "0", "yes", "⌊(32−5)/1⌋+1", "6×28×28", "5×5", "456"]
    assert lines[13].split() == ["total", "62,006"]
    assert all(line == line.rstrip() for line in lines)
    assert sum("⌊(n + 2p − f) / s⌋ + 1" in line for line in lines) == 1


@pytest.mark.parametrize("name", list(NETWORKS))
def test_the_summary_of_every_network_is_narrower_than_100_columns(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # They take seconds for a teacher; the column's heading is wider than they are.
    monkeypatch.setattr("training.networks.layers.receptive_fields", lambda *_: [])
    for kind in ("global", "stride"):  # with the longest names, and with the largest numbers
        text = summary.network_summary(name, Pooling(kind, window=3, stride=1))
        assert max(map(len, text.splitlines())) < 100


def test_receptive_fields_of_a_chain_are_those_of_the_textbook() -> None:
    chain = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 4, 5, stride=2), nn.AvgPool2d(3, 1),
        nn.Conv2d(4, 2, (1, 3), dilation=(1, 2), padding="same"),
    )  # fmt: skip
    # r = 1 + Σ (f − 1)·j, with j the product of the strides before: 3, 3, 4, 12, 20, and 4 more columns of 4 pixels.
    expected = ["3×3", "3×3", "4×4", "12×12", "20×20", "20×36"]
    assert receptive_fields(chain, torch.zeros(1, 1, 40, 48)) == expected


def test_a_receptive_field_ends_at_the_border_and_global_pooling_sees_the_whole_image() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 5, padding=2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 3))
    assert receptive_fields(network, torch.zeros(1, 1, 4, 6)) == ["4×5", "4×6", "4×6", "4×6"]


def test_cifar10_cnn_does_not_see_the_last_two_rows_and_columns() -> None:
    layers = layer_summaries(NETWORKS["cifar10-cnn"].classifier().body, torch.zeros(1, 3, 32, 32))
    assert column(layers, "receptive field")[-1] == "30×30", "the last pooling layer drops row and column 13"


class Branches(nn.Module):
    """A residual block in a network with functional calls, a layer that is called twice, and a weight of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3, padding=1, bias=False)
        self.block = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True))
        self.scale = nn.Parameter(torch.ones(()))
        self.last = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.first(x))
        x = x + self.scale * self.block(self.block(x))
        result: Tensor = self.last(x.mean((2, 3)))
        return result


def test_blocks_branches_and_functional_calls_are_understood_and_weights_are_counted_once() -> None:
    body = Branches()
    layers = layer_summaries(body, torch.zeros(1, 1, 9, 9))
    assert [layer.name for layer in layers] == ["first", *["block.0", "block.1", "block.2"] * 2, "last"]
    assert column(layers, "receptive field") == ["3×3", "5×5", "5×5", "5×5", "7×7", "7×7", "7×7", "9×9"]
    assert column(layers, "bias") == ["no", "yes", "yes", "", "yes", "yes", "", "yes"]
    rows = table_rows(body, layers)
    assert [row[0] for row in rows[-2:]] == ["other parameters", "total"]
    assert [row[-1] for row in rows] == ["36", "148", "8", "0", "0", "0", "0", "15", "1", "208"]


def test_the_output_of_a_layer_is_kept_as_it_was_when_the_next_one_changes_it_in_place() -> None:
    body = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU(inplace=True))
    nn.init.constant_(body[1].bias, -10.0)  # type: ignore[arg-type]
    layers = layer_summaries(body, torch.zeros(1, 1, 2, 2))
    assert layers[1].output is not None and (layers[1].output == -10).all()


class Recurrent(nn.Module):
    """Layers that return tuples and mappings, in a network that runs in float32 alone."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.LSTM(8, 5, batch_first=True)
        self.last = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        output, _ = self.rows(x.float().squeeze(1))
        result: Tensor = self.last(output[:, -1])
        return result


def test_a_layer_that_returns_a_tuple_is_listed_and_a_network_without_receptive_fields_too() -> None:
    layers = layer_summaries(Recurrent(), torch.zeros(1, 1, 8, 8))
    assert column(layers, "layer") == ["LSTM", "Linear 5→2"] and column(layers, "output") == ["8×5", "2"]
    assert column(layers, "receptive field") == ["", ""]


def test_images_of_more_than_the_largest_side_have_no_receptive_fields() -> None:
    layer = nn.Conv2d(1, 1, 3)
    assert receptive_fields(layer, torch.zeros(1, 1, 3, MAX_SIDE)) == ["3×3"]
    assert receptive_fields(layer, torch.zeros(1, 1, 3, MAX_SIDE + 1)) == []


def test_the_size_formula_says_both_axes_if_they_differ_and_nothing_where_it_does_not_hold() -> None:
    layers = [nn.Conv2d(1, 1, (3, 5), padding=(1, 0), dilation=(2, 1)), nn.MaxPool2d(2, ceil_mode=True), nn.ReLU()]
    formulas = column(layer_summaries(nn.Sequential(*layers), torch.zeros(1, 1, 9, 9)), "output size")
    assert formulas == ["⌊(9+2·1−5)/1⌋+1, ⌊(9−5)/1⌋+1", "", ""]
