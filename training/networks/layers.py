"""The layers of a network of any shape, with their outputs for some images, and the table that `--summary` prints.

Not here: pictures of filters and feature maps (report/).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class LayerSummary:
    """One layer of a network, and its output (N, …) for some images."""

    name: str
    description: str
    parameters: int
    output: Tensor

    @property
    def output_shape(self) -> str:
        """Shape of the output without N, such as 32×28×28."""
        return "×".join(str(axis) for axis in self.output.shape[1:])


@torch.inference_mode()
def layer_summaries(body: nn.Module, inputs: Tensor) -> list[LayerSummary]:
    """Run normalized images (N, C, H, W) through the network and summarize its layers in the order of their calls.

    A layer is a module without children, in a network of any shape.
    """
    layers: list[LayerSummary] = []

    def record(name: str, layer: nn.Module, output: Tensor) -> None:
        parameters = sum(parameter.numel() for parameter in layer.parameters())
        layers.append(LayerSummary(name, _description(layer), parameters, output))

    hooks = [
        layer.register_forward_hook(lambda layer, _, output, name=name: record(name, layer, output))
        for name, layer in body.named_modules()
        if not any(layer.children())
    ]
    try:
        body.eval()(inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return layers


def layer_table(layers: list[LayerSummary]) -> str:
    """The layers with their output shapes and numbers of parameters."""
    rows = [("layer", "output", "parameters")]
    rows += [(layer.description, layer.output_shape, f"{layer.parameters:,}") for layer in layers]
    rows.append(("total", "", f"{sum(layer.parameters for layer in layers):,}"))
    widths = column_widths(rows)
    return "\n".join(f"{row[0]:{widths[0]}}   {row[1]:{widths[1]}}   {row[2]:>{widths[2]}}" for row in rows)


def _description(layer: nn.Module) -> str:
    kind = type(layer).__name__.removesuffix("2d")
    match layer:
        case nn.Conv2d():
            side, padding = layer.kernel_size[0], layer.padding[0]
            text = f"{kind} {layer.in_channels}→{layer.out_channels}, {side}×{side}"
            return f"{text}, padding {padding}" if padding else text
        case nn.Linear():
            return f"{kind} {layer.in_features}→{layer.out_features}"
        case nn.Dropout():
            return f"{kind} {layer.p}"
    return kind


def column_widths(rows: Sequence[tuple[str, ...]]) -> list[int]:
    """The width of each column of a table: that of its longest cell."""
    return [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
