"""Training time and test accuracy against a tutorial's training loop, both in this run, on the full MNIST.

`python -m tests.benchmarks.train_speed [--data-dir data] [--epochs 5] [--seeds 3]`. Seconds are of training alone, from
the data set to trained weights, and include our validation, but not the interpreter's start, imports and export. Then,
for every network, the images per second of the input pipeline alone and of training.
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

from training.data.augment import RANDOM_NUMBERS_PER_IMAGE
from training.data.dataset import Dataset, Split
from training.networks.registry import NETWORKS, Network
from training.trainer.device import keep_freed_memory
from training.trainer.distributed import SINGLE_PROCESS
from training.trainer.loop import Trainer
from training.trainer.recipe import recipe_for

# 3 epochs reach the accuracy of 5 epochs of the tutorial's training loop.
OURS = ("--epochs", "3")


def run(*command: str) -> str:
    """The standard output of `python -m`; its standard error is shown."""
    return subprocess.run([sys.executable, "-m", *command], check=True, stdout=subprocess.PIPE, text=True).stdout


def ours(data_dir: Path, seed: int) -> dict[str, Any]:
    """Seconds, test accuracy and epochs of the training job, from the manifest that it publishes."""
    with tempfile.TemporaryDirectory() as folder:
        flags = ["--data-dir", str(data_dir), "--repository", folder, "--runs-dir", f"{folder}/runs"]
        run("training", *flags, "--seed", str(seed), *OURS)
        manifest = json.loads((Path(folder) / "mnist-simplecnn" / "1" / "manifest.json").read_text())
    metrics = manifest["metrics"]
    return {
        "seconds": metrics["training_seconds"],
        "accuracy": metrics["test_accuracy"],
        "epochs": manifest["recipe"]["epochs"],
    }


def rates(network: Network) -> tuple[float, float]:
    """Images per second of the input pipeline alone, and of training."""
    keep_freed_memory()
    count = 20_000
    images = torch.randint(0, 256, (count, *network.image_shape), dtype=torch.uint8)
    split = Split(images, torch.randint(0, 10, (count,)))
    recipe = recipe_for("tuned", network, Dataset(network.dataset, split, split, ()), seed=0)
    trainer = Trainer(network.classifier(), split, split[:1], recipe, torch.device("cpu"), SINGLE_PROCESS)

    trainer.batches.show_view(0)

    def input_pipeline(batch: torch.Tensor) -> None:
        numbers = torch.rand(len(batch), RANDOM_NUMBERS_PER_IMAGE)
        trainer.model.normalize(recipe.augmentation(split.images[batch], numbers))

    batch_size = recipe.batch_size
    return _rate(input_pipeline, count, batch_size, 3.0), _rate(trainer.train_step, count, batch_size, 6.0)


def _rate(step: Callable[[torch.Tensor], object], count: int, batch_size: int, seconds: float) -> float:
    for _ in range(5):
        step(torch.randperm(count)[:batch_size])
    images, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        step(torch.randperm(count)[:batch_size])
        images += batch_size
    return images / (time.perf_counter() - started)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    parser.add_argument("--epochs", type=int, default=5, help="epochs of the tutorial's training loop")
    parser.add_argument("--seeds", type=int, default=3, help="runs of the training job, with seeds from 0")
    arguments = parser.parse_args()
    plain = json.loads(run("tests.benchmarks.plain_recipe", str(arguments.data_dir), str(arguments.epochs)))
    runs = [ours(arguments.data_dir, seed) for seed in range(arguments.seeds)]
    seconds, accuracy = mean(one["seconds"] for one in runs), mean(one["accuracy"] for one in runs)
    print("training   epochs   seconds   test accuracy")
    print(f"tutorial   {arguments.epochs:6}   {plain['seconds']:7.1f}   {plain['accuracy']:.2%}")
    for one in runs:
        print(f"ours       {one['epochs']:6}   {one['seconds']:7.1f}   {one['accuracy']:.2%}")
    speedup = plain["seconds"] / seconds
    print(f"ratio: {speedup:.2f} times as fast, at {accuracy:.2%} against {plain['accuracy']:.2%}")
    print("\nimages/s          input pipeline   training   ratio")
    for name, network in NETWORKS.items():
        pipeline, training = rates(network)
        print(f"{name:16} {pipeline:15,.0f} {training:10,.0f}   {pipeline / training:.1f}")


if __name__ == "__main__":
    main()
