"""Whole test sets, over gRPC, to one service of all published models: its answers beside the job's own, one by one.

The job keeps what torch answered in its run's folder (`--runs`), which each manifest names.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from service.client import Client
from tests.support.processes import ServiceProcess
from training import sources
from training.networks import NETWORKS

ROWS = 64
# Largest difference of a probability between torch, in the job, and the service.
TOLERANCE = 1e-5


def main() -> int:
    """Ask for everything, print a line a model; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.soaks.served", description=__doc__)
    parser.add_argument("--repository", type=Path, default=Path("models"))
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    options = parser.parse_args()
    manifests = {path.name: _newest(path) for path in sorted(options.repository.iterdir()) if path.is_dir()}
    service = ServiceProcess(options.repository, "--device", "cpu")
    try:
        with Client(service.address) as client:
            good = [check(client, name, found, options) for name, found in manifests.items() if found]
    finally:
        service.stop()
    return 0 if good and all(good) else 1


def check(client: Client, name: str, manifest: dict[str, Any], options: argparse.Namespace) -> bool:
    """Whether the service answers for the model as its job did."""
    network = NETWORKS[manifest["network"]["name"]]
    test = sources.load(manifest["dataset"]["name"], options.data_dir, network.image).test
    images, labels = test.images.numpy(), test.labels.numpy()
    answers = np.concatenate([client.predict(name, part) for part in np.split(images, range(ROWS, len(images), ROWS))])
    accuracy = float((answers.argmax(1) == labels).mean())
    expected = manifest["metrics"]["test_accuracy"]
    line = f"{name:24} {len(images):,} images: {accuracy:.2%} as served, {expected:.2%} in the manifest"
    good = bool(abs(accuracy - expected) < 1e-6)
    if "quantization" not in manifest:
        with np.load(options.runs / manifest["run"] / "test.npz") as kept:
            others = int((answers.argmax(1) != kept["probabilities"].argmax(1)).sum())
            largest = float(np.abs(answers - kept["probabilities"]).max())
        line += f"; {others} labels differ from torch's, largest difference {largest:.1e}"
        good = good and not others and largest <= TOLERANCE
    print(f"{line}   {'as it should be' if good else 'NOT SO'}", flush=True)
    return good


def _newest(folder: Path) -> dict[str, Any] | None:
    """The manifest of the folder's newest version, if it has one."""
    versions = [int(path.parent.name) for path in folder.glob("*/manifest.json") if path.parent.name.isdecimal()]
    if not versions:
        return None
    manifest: dict[str, Any] = json.loads((folder / str(max(versions)) / "manifest.json").read_text())
    return manifest


if __name__ == "__main__":
    sys.exit(main())
