"""Send whole test splits over gRPC to a service of all published models, and compare with the training job's results.

The training job saves PyTorch's probabilities in its run folder (below `--runs-dir`), which each manifest names.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from service.client import Client
from tests.support.processes import ServiceProcess
from training.data import datasets
from training.networks.registry import NETWORKS

ROWS = 64
# Largest allowed difference of a probability between PyTorch, in the training job, and the service.
TOLERANCE = 1e-5


def main() -> int:
    """Check every model and print a line for each; the exit status is 0 if all are right."""
    parser = argparse.ArgumentParser(prog="python -m tests.soaks.served", description=__doc__)
    parser.add_argument("--repository", type=Path, default=Path("models"))
    parser.add_argument("--runs-dir", type=Path, default=Path("runs"))
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    options = parser.parse_args()
    manifests = {path.name: _newest(path) for path in sorted(options.repository.iterdir()) if path.is_dir()}
    service = ServiceProcess(options.repository, "--device", "cpu")
    try:
        with Client(service.address) as client:
            passed = [check(client, name, manifest, options) for name, manifest in manifests.items() if manifest]
    finally:
        service.stop()
    return 0 if passed and all(passed) else 1


def check(client: Client, name: str, manifest: dict[str, Any], options: argparse.Namespace) -> bool:
    """Whether the service's accuracy and probabilities are those of the training job."""
    network = NETWORKS[manifest["network"]["name"]]
    test = datasets.load(manifest["dataset"]["name"], options.data_dir, network.image_shape).test
    images, labels = test.images.numpy(), test.labels.numpy()
    batches = np.split(images, range(ROWS, len(images), ROWS))
    probabilities = np.concatenate([client.predict(name, batch) for batch in batches])
    accuracy = float((probabilities.argmax(1) == labels).mean())
    expected = manifest["metrics"]["test_accuracy"]
    line = f"{name:24} {len(images):,} images: {accuracy:.2%} as served, {expected:.2%} in the manifest"
    passed = bool(abs(accuracy - expected) < 1e-6)
    if "quantization" not in manifest:
        with np.load(options.runs_dir / manifest["run"] / "test.npz") as predictions:
            expected_probabilities = predictions["probabilities"]
        different_labels = int((probabilities.argmax(1) != expected_probabilities.argmax(1)).sum())
        max_abs_diff = float(np.abs(probabilities - expected_probabilities).max())
        line += f"; {different_labels} labels differ from PyTorch's, largest difference {max_abs_diff:.1e}"
        passed = passed and not different_labels and max_abs_diff <= TOLERANCE
    print(f"{line}   {'passed' if passed else 'FAILED'}", flush=True)
    return passed


def _newest(folder: Path) -> dict[str, Any] | None:
    """The manifest of the model's newest version that has one."""
    versions = [int(path.parent.name) for path in folder.glob("*/manifest.json") if path.parent.name.isdecimal()]
    if not versions:
        return None
    manifest: dict[str, Any] = json.loads((folder / str(max(versions)) / "manifest.json").read_text())
    return manifest


if __name__ == "__main__":
    sys.exit(main())
