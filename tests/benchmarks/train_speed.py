"""Training against the plain recipe, both in this run, on the full MNIST: seconds, test accuracy and their ratio.

`python -m tests.benchmarks.train_speed [--data-dir data] [--epochs 5] [--seeds 3]`. Seconds are of training alone, from
tensors or data set to trained weights, our validation included; interpreter, imports and export are in neither. Then,
for every network, how many images a second the input pipeline makes by itself, and how many the network learns from.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from training.augment import NUMBERS
from training.data import Dataset, Part
from training.group import ALONE
from training.networks import NETWORKS, Classifier, Network
from training.recipe import Run, keep_freed_memory, recipe_for

# So few epochs do for the accuracy that was reported after five of the plain recipe's.
OURS = ("--epochs", "3")


def run(*command: str) -> str:
    """Output of a module run to its end; what it says meanwhile on standard error is shown."""
    return subprocess.run([sys.executable, "-m", *command], check=True, stdout=subprocess.PIPE, text=True).stdout


def ours(data_dir: Path, seed: int) -> dict[str, Any]:
    """Seconds and accuracy of the job, as it stands in the manifest it publishes."""
    with tempfile.TemporaryDirectory() as folder:
        flags = ["--data-dir", str(data_dir), "--repository", folder, "--runs", f"{folder}/runs", "--seed", str(seed)]
        run("training", *flags, *OURS)
        manifest = json.loads((Path(folder) / "mnist-simplecnn" / "1" / "manifest.json").read_text())
    metrics = manifest["metrics"]
    return {
        "seconds": metrics["training_seconds"],
        "accuracy": metrics["test_accuracy"],
        "epochs": manifest["recipe"]["epochs"],
    }


def rates(network: Network) -> tuple[float, float]:
    """Images a second of the input pipeline alone, and of training whole."""
    keep_freed_memory()
    count = 20_000
    part = Part(torch.randint(0, 256, (count, *network.image), dtype=torch.uint8), torch.randint(0, 10, (count,)))
    recipe = recipe_for("best", network, Dataset(network.dataset, part, part, ()), seed=0)
    learning = Run(Classifier(network), (part, part[:1]), recipe, torch.device("cpu"), ALONE, 1_000)

    def feed(batch: torch.Tensor) -> None:
        numbers = torch.rand(len(batch), NUMBERS)
        learning.model.prepare(recipe.augmentation(part.images[batch], numbers))

    batch_size = recipe.batch_size
    return _rate(feed, count, batch_size, 3.0), _rate(learning.take_step, count, batch_size, 6.0)


def _rate(step: Callable[[torch.Tensor], object], count: int, batch_size: int, seconds: float) -> float:
    for _ in range(5):
        step(torch.randperm(count)[:batch_size])
    done, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        step(torch.randperm(count)[:batch_size])
        done += batch_size
    return done / (time.perf_counter() - started)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    parser.add_argument("--epochs", type=int, default=5, help="of the plain recipe")
    parser.add_argument("--seeds", type=int, default=3, help="runs of ours")
    arguments = parser.parse_args()
    plain = json.loads(run("tests.benchmarks.plain_recipe", str(arguments.data_dir), str(arguments.epochs)))
    runs = [ours(arguments.data_dir, seed) for seed in range(arguments.seeds)]
    seconds, accuracy = mean(one["seconds"] for one in runs), mean(one["accuracy"] for one in runs)
    print("recipe   epochs   seconds   test accuracy")
    print(f"plain    {arguments.epochs:6}   {plain['seconds']:7.1f}   {plain['accuracy']:.2%}")
    for one in runs:
        print(f"ours     {one['epochs']:6}   {one['seconds']:7.1f}   {one['accuracy']:.2%}")
    speed = plain["seconds"] / seconds
    print(f"ratio: {speed:.2f} times as fast, at {accuracy:.2%} against {plain['accuracy']:.2%}")
    print("\nnetwork           input pipeline   learning   ratio, images/s")
    for name, network in NETWORKS.items():
        pipeline, learning = rates(network)
        print(f"{name:16} {pipeline:15,.0f} {learning:10,.0f}   {pipeline / learning:.1f}")


if __name__ == "__main__":
    main()
