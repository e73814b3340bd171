"""Tables for `--list` and `--summary`: the networks with their accuracies, and the layers of one network."""

import json
from pathlib import Path

import torch

from training.errors import TrainingError
from training.networks.layers import column_widths, layer_summaries, layer_table
from training.networks.pooling import MAX_POOLING, Pooling
from training.networks.registry import NETWORKS, find_network


def network_summary(name: str, pooling: Pooling = MAX_POOLING) -> str:
    """The layer table of a network with this pooling.

    Raises:
        UnknownNetwork: no network has this name.
        ImpossibleSize: its layers do not fit its images with this pooling.
        TrainingError: the kind is `all`.
    """
    if pooling.kind == "all":
        raise TrainingError("--summary shows the layers with one kind of pooling, not with --pooling all")
    network = find_network(name)
    height, width, channels = network.image_shape
    body = network.classifier(pooling).body
    return layer_table(body, layer_summaries(body, torch.zeros(1, channels, height, width)))


def network_list(repository: Path) -> str:
    """The networks, with their reference accuracies and those of the newest versions in the repository."""
    rows = [("network", "data set", "input", "parameters", "reference", "in the repository")]
    for name, network in NETWORKS.items():
        parameters = sum(parameter.numel() for parameter in network.classifier().parameters())
        reference = f"{network.reference_accuracy:.2%}" if network.reference_accuracy else "–"
        shape = "×".join(map(str, network.image_shape))
        rows.append((name, network.dataset, shape, f"{parameters:,}", reference, _newest_accuracy(repository / name)))
    widths = column_widths(rows)
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
