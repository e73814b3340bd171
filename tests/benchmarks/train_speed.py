"""Training against the plain recipe, both in this run, on the full MNIST: seconds, test accuracy and their ratio.

`python -m tests.benchmarks.train_speed [--data-dir data] [--epochs 5] [--seeds 1]`. Seconds are of training alone, from
tensors or data set to trained weights, our validation included; interpreter, imports and export are in neither.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import mean
from typing import Any


def run(*command: str) -> str:
    """Output of a module run to its end; what it says meanwhile on standard error is shown."""
    return subprocess.run([sys.executable, "-m", *command], check=True, stdout=subprocess.PIPE, text=True).stdout


def ours(data_dir: Path, seed: int) -> dict[str, Any]:
    """Seconds and accuracy of the job, as it stands in the manifest it publishes."""
    with tempfile.TemporaryDirectory() as repository:
        run("training", "--data-dir", str(data_dir), "--repository", repository, "--seed", str(seed))
        manifest = json.loads((Path(repository) / "mnist-simplecnn" / "1" / "manifest.json").read_text())
    metrics = manifest["metrics"]
    return {
        "seconds": metrics["training_seconds"],
        "accuracy": metrics["test_accuracy"],
        "epochs": manifest["recipe"]["epochs"],
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    parser.add_argument("--epochs", type=int, default=5, help="of the plain recipe")
    parser.add_argument("--seeds", type=int, default=1, help="runs of ours")
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


if __name__ == "__main__":
    main()
