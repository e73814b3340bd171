"""The layers of a network as a table, and what each puts out for an image."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Layer:
    """A line of the table. `output` is what it puts out for the images that were given, (N, …)."""

    name: str
    described: str
    parameters: int
    output: Tensor

    @property
    def size(self) -> str:
        """Its output's size without N, as 32×28×28."""
        return "×".join(str(axis) for axis in self.output.shape[1:])


@torch.inference_mode()
def layers_of(body: nn.Sequential, inputs: Tensor) -> list[Layer]:
    """Run scaled images (N, C, H, W) through the network and note every layer on the way."""
    found = []
    body.eval()
    for name, layer in body.named_children():
        inputs = layer(inputs)
        parameters = sum(parameter.numel() for parameter in layer.parameters())
        found.append(Layer(name, _described(layer), parameters, inputs))
    return found


def _described(layer: nn.Module) -> str:
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


def table(layers: list[Layer]) -> str:
    """As text."""
    rows = [("layer", "output", "parameters"), *((one.described, one.size, f"{one.parameters:,}") for one in layers)]
    rows.append(("all", "", f"{sum(one.parameters for one in layers):,}"))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return "\n".join(f"{row[0]:{widths[0]}}   {row[1]:{widths[1]}}   {row[2]:>{widths[2]}}" for row in rows)
