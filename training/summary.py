"""Tables for `--list` and `--summary`: the networks with their accuracies, and the layers of one network."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from training.networks import NETWORKS, Classifier, find_network
from training.pooling import Pooling


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
def layer_summaries(body: nn.Sequential, inputs: Tensor) -> list[LayerSummary]:
    """Run normalized images (N, C, H, W) through the network and summarize every layer."""
    layers = []
    body.eval()
    for name, layer in body.named_children():
        inputs = layer(inputs)
        parameters = sum(parameter.numel() for parameter in layer.parameters())
        layers.append(LayerSummary(name, _description(layer), parameters, inputs))
    return layers


def layer_table(layers: list[LayerSummary]) -> str:
    """The layers with their output shapes and numbers of parameters."""
    rows = [("layer", "output", "parameters")]
    rows += [(layer.description, layer.output_shape, f"{layer.parameters:,}") for layer in layers]
    rows.append(("total", "", f"{sum(layer.parameters for layer in layers):,}"))
    widths = _column_widths(rows)
    return "\n".join(f"{row[0]:{widths[0]}}   {row[1]:{widths[1]}}   {row[2]:>{widths[2]}}" for row in rows)


def network_summary(name: str, pooling: str) -> str:
    """The layer table of a network with this kind of pooling.

    Raises:
        UnknownNetwork: no network has this name.
    """
    network = find_network(name)
    height, width, channels = network.image_shape
    body = Classifier(network, Pooling(pooling)).body
    return layer_table(layer_summaries(body, torch.zeros(1, channels, height, width)))


def network_list(repository: Path) -> str:
    """The networks, with their reference accuracies and those of the newest versions in the repository."""
    rows = [("network", "data set", "input", "parameters", "reference", "in the repository")]
    for name, network in NETWORKS.items():
        parameters = sum(parameter.numel() for parameter in Classifier(network).parameters())
        reference = f"{network.reference_accuracy:.2%}" if network.reference_accuracy else "–"
        shape = "×".join(map(str, network.image_shape))
        rows.append((name, network.dataset, shape, f"{parameters:,}", reference, _newest_accuracy(repository / name)))
    widths = _column_widths(rows)
    lines = ("   ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def _newest_accuracy(model_folder: Path) -> str:
    versions = [int(path.parent.name) for path in model_folder.glob("*/manifest.json") if path.parent.name.isdecimal()]
    if not versions:
        return "–"
    newest = max(versions)
    try:
        manifest = json.loads((model_folder / str(newest) / "manifest.json").read_text())
        return f"{manifest['metrics']['test_accuracy']:.2%} on {manifest['dataset']['name']}, version {newest}"
    except (OSError, ValueError, KeyError):
        return "–"


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


def _column_widths(rows: Sequence[tuple[str, ...]]) -> list[int]:
    return [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
