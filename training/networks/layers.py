"""The layers of a network of any shape, with their outputs for some images and their geometry, as a table.

Not here: how layers are found (hooks.py), pictures of filters and feature maps (report/).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from training.networks.hooks import watch_layers
from training.networks.receptive_field import receptive_fields
from training.networks.sizes import FORMULA, worked

HEADER = ("layer", "stride", "padding", "bias", "output size", "output", "receptive field", "parameters")
LEGEND = (
    f"output size: {FORMULA} for n values, padding p at each end, windows of f, stride s",
    "receptive field: the part of the image that one value of the output depends on",
)


@dataclass(frozen=True)
class LayerSummary:
    """One layer of a network, and its output (N, …) for some images. What does not apply is an empty text."""

    name: str
    layer: nn.Module
    parameters: int  # without those of the layers before, if it shares some
    output: Tensor | None  # None if it returns no tensor
    size_formula: str  # such as ⌊(28+2·1−3)/1⌋+1
    receptive_field: str  # height×width

    @property
    def description(self) -> str:
        """Its kind and what else decides its parameters, such as Conv 3→32, 3×3."""
        layer, kind = self.layer, type(self.layer).__name__.removesuffix("2d")
        match layer:
            case nn.Linear():
                return f"{kind} {layer.in_features}→{layer.out_features}"
            case nn.Dropout():
                return f"{kind} {layer.p}"
            case nn.Conv2d() | nn.ConvTranspose2d():
                kind += f" {layer.in_channels}→{layer.out_channels}"
        window = _pair(layer, "kernel_size", "window")
        return f"{kind}, {_by(window)}" if window else kind

    @property
    def output_shape(self) -> str:
        """Shape of the output without N, such as 32×28×28."""
        return "" if self.output is None else _by(self.output.shape[1:])

    @property
    def stride(self) -> str:
        """The step of its window, such as 2."""
        return _short(_pair(self.layer, "stride"))

    @property
    def padding(self) -> str:
        """Zeros at each end of its input, such as 1."""
        return _short(_pair(self.layer, "padding"))

    @property
    def bias(self) -> str:
        """Whether a layer with weights adds a bias: yes or no."""
        if not hasattr(self.layer, "bias"):
            return ""
        return "yes" if isinstance(self.layer.bias, Tensor) else "no"

    @property
    def cells(self) -> tuple[str, ...]:
        """Its row of the table, below HEADER."""
        geometry = self.description, self.stride, self.padding, self.bias, self.size_formula
        return *geometry, self.output_shape, self.receptive_field, f"{self.parameters:,}"


@torch.inference_mode()
def layer_summaries(body: nn.Module, inputs: Tensor) -> list[LayerSummary]:
    """Run normalized images (N, C, H, W) through the network and summarize its layers in the order of their calls."""
    layers: list[LayerSummary] = []
    fields = receptive_fields(body, inputs[:1])
    counted: set[int] = set()

    def summarize(name: str, layer: nn.Module, first_input: Tensor | None, output: Tensor | None) -> None:
        new = [parameter for parameter in layer.parameters() if id(parameter) not in counted]
        counted.update(map(id, new))
        summary = LayerSummary(
            name=name,
            layer=layer,
            parameters=sum(parameter.numel() for parameter in new),
            output=None if output is None else output.clone(),  # the next layer may change it in place
            size_formula=_size_formula(layer, first_input),
            receptive_field=fields[len(layers)] if len(layers) < len(fields) else "",
        )
        layers.append(summary)

    with watch_layers(body.eval(), summarize):
        body(inputs)
    return layers


def table_rows(body: nn.Module, layers: Sequence[LayerSummary]) -> list[tuple[str, ...]]:
    """A row for each layer below HEADER, one for weights that belong to none of them, and the total."""
    total = sum(parameter.numel() for parameter in body.parameters())
    other = total - sum(layer.parameters for layer in layers)
    ends = [("other parameters", other)] if other else []
    empty = ("",) * (len(HEADER) - 2)
    return [layer.cells for layer in layers] + [
        (name, *empty, f"{count:,}") for name, count in [*ends, ("total", total)]
    ]


def layer_table(body: nn.Module, layers: Sequence[LayerSummary]) -> str:
    """The table of the layers as text, with LEGEND below it."""
    rows = [HEADER, *table_rows(body, layers)]
    widths = column_widths(rows)
    left = {HEADER.index(name) for name in ("layer", "output size", "output", "receptive field")}
    lines = (
        "  ".join(f"{cell:{'<' if column in left else '>'}{widths[column]}}" for column, cell in enumerate(row))
        for row in rows
    )
    return "\n".join([*lines, "", *LEGEND])


def column_widths(rows: Sequence[tuple[str, ...]]) -> list[int]:
    """The width of each column of a table: that of its longest cell."""
    return [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]


def _pair(layer: nn.Module, *names: str) -> tuple[int, ...]:
    """The first of these attributes that the layer has, for both axes; empty if it is no number and no pair."""
    value = next((getattr(layer, name) for name in names if hasattr(layer, name)), None)
    if isinstance(value, int):
        return (value, value)
    return tuple(value) if isinstance(value, tuple) and all(isinstance(item, int) for item in value) else ()


def _by(numbers: Sequence[int]) -> str:
    return "×".join(map(str, numbers))


def _short(pair: tuple[int, ...]) -> str:
    """One number where both axes have the same."""
    return str(pair[0]) if len(set(pair)) == 1 else _by(pair)


def _size_formula(layer: nn.Module, images: Tensor | None) -> str:
    """The formula of the output's size with its numbers, of both axes if they differ; only of layers with a window."""
    window, stride, padding = _pair(layer, "kernel_size", "window"), _pair(layer, "stride"), _pair(layer, "padding")
    if (
        images is None
        or images.ndim != 4
        or len(window) != 2
        or len(stride) != 2
        or isinstance(layer, nn.ConvTranspose2d)
    ):
        return ""
    if isinstance(getattr(layer, "padding", 0), str) or getattr(layer, "ceil_mode", False):
        return ""
    dilation = _pair(layer, "dilation") or (1, 1)
    sizes = [
        worked(
            images.shape[2 + axis],
            window=dilation[axis] * (window[axis] - 1) + 1,
            stride=stride[axis],
            padding=(padding or (0, 0))[axis],
        )
        for axis in (0, 1)
    ]
    return ", ".join(dict.fromkeys(sizes))
