"""Accuracy on photographs: held-out digits, drawn as people photograph them, as the service reads them.

`python -m tests.benchmarks.photos [--digits 40] [--repository models] [--model mnist-simplecnn] [--address HOST:PORT]`
serves the repository, or calls a server that runs already, of any version of this code. Every digit comes in every kind
of tests/support/photos.py, through Classify with the default fit. The digits are of MNIST's test split if `--data-dir`
has it, else of the bundled one. Prints for each kind the share read correctly and the number refused.
"""

import argparse
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from service.client import Client
from tests.support.photos import KINDS, TURNED, photo
from tests.support.processes import service_process
from training.data import datasets

FILES_PER_CALL = 8
TIMEOUT = 60.0  # seconds for each call


@dataclass(frozen=True)
class Score:
    """How many photographs of one kind were read correctly, and how many were refused with an error."""

    correct: int
    refused: int


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.photos", description=__doc__)
    parser.add_argument("--digits", type=int, default=40, help="digits in each kind")
    parser.add_argument("--repository", type=Path, default=Path("models"))
    parser.add_argument("--model", default="mnist-simplecnn")
    parser.add_argument("--address", default="", help="a running server; by default one is started")
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    options = parser.parse_args()
    name, digits, labels = held_out(options.data_dir, options.digits)
    print(f"{len(labels)} held-out digits of {name} in {len(KINDS)} kinds, model {options.model}\n")
    print("kind             read correctly   refused")
    scores: dict[str, Score] = {}
    with server(options) as address, Client(address, timeout=TIMEOUT) as client, ProcessPoolExecutor() as pool:
        for kind in KINDS:
            files = list(pool.map(draw, [kind] * len(labels), digits, range(len(labels))))
            scores[kind] = score(client, options.model, files, labels)
            show(kind, [scores[kind]], len(labels))
    show("all but turned", [scores[kind] for kind in KINDS if kind != TURNED], len(labels))
    show("all", list(scores.values()), len(labels))


def held_out(data_dir: Path, count: int) -> tuple[str, NDArray[np.uint8], NDArray[np.int64]]:
    """The data set's name, and digits (count, 28, 28) with their labels, from all over its test split."""
    name = "mnist" if (data_dir / "MNIST" / "raw").is_dir() else "mnist-sample"
    test = datasets.load(name, data_dir).test
    chosen = slice(0, count * (len(test) // count), len(test) // count)
    return name, test.images[chosen, :, :, 0].numpy(), test.labels[chosen].numpy()


@contextmanager
def server(options: argparse.Namespace) -> Iterator[str]:
    """The address of the server to call."""
    if options.address:
        yield options.address
        return
    with service_process(options.repository, "--device", "cpu") as service:
        yield service.address


def draw(kind: str, digit: NDArray[np.uint8], seed: int) -> bytes:
    """The photograph as a file."""
    return photo(digit, KINDS[kind], seed)


def score(client: Client, model: str, files: list[bytes], labels: NDArray[np.int64]) -> Score:
    """Classify the files."""
    calls = [files[start : start + FILES_PER_CALL] for start in range(0, len(files), FILES_PER_CALL)]
    results = [result for call in calls for result in client.classify(model, call)]
    outcomes = Counter(
        "refused" if result.HasField("error") else result.classes[0].class_id == label
        for result, label in zip(results, labels, strict=True)
    )
    return Score(outcomes[True], outcomes["refused"])


def show(title: str, scores: list[Score], digits: int) -> None:
    """Print one line of the table."""
    correct = sum(one.correct for one in scores) / (digits * len(scores))
    print(f"{title:16} {correct:14.1%} {sum(one.refused for one in scores):9}", flush=True)


if __name__ == "__main__":
    main()
