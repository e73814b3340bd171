"""What can be trained, and how good it was found to be."""

import json
from pathlib import Path

import torch

from training.layers import layers_of, table
from training.networks import NETWORKS, Classifier, network_called
from training.pooling import Pooling


def networks(repository: Path) -> str:
    """The networks as a table; the last column is of the newest versions in the repository."""
    rows = [("network", "data", "input", "parameters", "reported", "here")]
    for name, network in NETWORKS.items():
        parameters = sum(one.numel() for one in Classifier(network).parameters())
        reported = f"{network.reported:.2%}" if network.reported else "–"
        image = "×".join(map(str, network.image))
        rows.append((name, network.dataset, image, f"{parameters:,}", reported, _reached(repository / name)))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ("   ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def _reached(folder: Path) -> str:
    versions = [int(path.parent.name) for path in folder.glob("*/manifest.json") if path.parent.name.isdecimal()]
    if not versions:
        return "–"
    try:
        manifest = json.loads((folder / str(max(versions)) / "manifest.json").read_text())
        return f"{manifest['metrics']['test_accuracy']:.2%} on {manifest['dataset']['name']}, version {max(versions)}"
    except (OSError, ValueError, KeyError):
        return "–"


def summary(name: str, pool: str) -> str:
    """The network's layers as a table."""
    network = network_called(name)
    height, width, channels = network.image
    return table(layers_of(Classifier(network, Pooling(pool)).body, torch.zeros(1, channels, height, width)))
