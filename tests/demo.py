"""The demonstration of `make demo`: serves the published model and classifies digits that it was not trained on.

Starts the service on free ports, sends every held-out test image of mnist-sample over gRPC, prints some of the answers
and the accuracy over all images, classifies the pictures of tests/pictures with the client's command, and stops the
service.
"""

import json
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

import numpy as np

from service.client import Client
from tests.pictures.make import FILES

ROOT = Path(__file__).parents[1]
MODEL = "mnist-simplecnn"
SHOWN = 10
METRICS = ("inference_requests_total", "inference_rows_total", "inference_batches_total")


@contextmanager
def running_service(repository: Path) -> Iterator[tuple[str, str]]:
    """Run a service on free ports and stop it at the end; yields its gRPC address and the URL of its metrics."""
    command = [sys.executable, "-m", "service", "--model-repository", str(repository), "--log-format", "json"]
    command += ["--grpc-port", "0", "--metrics-port", "0", "--lame-duck-seconds", "0"]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    facts: dict[str, str] = {}
    try:
        for line in process.stderr:
            event = json.loads(line) if line.startswith("{") else {"event": line.strip()}
            facts |= {key: str(value) for key, value in event.items()}
            if event["event"] in ("ready", "not ready"):
                break
        if facts.get("event") != "ready":
            sys.exit(f"error: the service is not ready: {facts.get('reason', facts.get('event'))}")
        seconds, address, server = float(facts["seconds"]), facts["address"], facts["grpc_server"]
        print(f"\nmodels loaded in {seconds:.2f} s: gRPC on {address} ({server} server)")
        yield address, facts["url"]
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    print(f"service stopped, exit status {process.returncode}")


def main() -> None:
    """Demonstrate the model repository that the command line names."""
    repository = Path(sys.argv[1] if len(sys.argv) > 1 else "models")
    with running_service(repository) as (address, metrics):
        classify_held_out(address)
        print(f"\nmetrics, at {metrics} while it runs:")
        with urlopen(metrics, timeout=10) as response:
            for line in response.read().decode().splitlines():
                if line.startswith(METRICS):
                    print(f"  {line}")
        print("\npictures as people take them, each named for its digit:")
        classify_pictures(address)


def classify_held_out(address: str) -> None:
    """Send every held-out image of mnist-sample, and print some of the answers and the accuracy."""
    with np.load(ROOT / "training" / "data" / "samples" / "mnist-sample.npz") as arrays:
        images, labels = arrays["test_images"][..., None], arrays["test_labels"]
    with Client(address) as client:
        batches = np.split(images, range(50, len(images), 50))
        probabilities = np.concatenate([client.predict(MODEL, batch) for batch in batches])
    predicted = probabilities.argmax(1)
    print(f"\n  held-out image   true   predicted   probability   ({SHOWN} of {len(labels):,})")
    for index in range(0, len(labels), len(labels) // SHOWN):
        mark = "" if predicted[index] == labels[index] else "   wrong"
        print(f"  {index:14}   {labels[index]:4}   {predicted[index]:9}   {probabilities[index].max():11.1%}{mark}")
    correct = int((predicted == labels).sum())
    print(f"\naccuracy as answered by the service: {correct / len(labels):.2%} ({correct:,} of {len(labels):,})")


def classify_pictures(address: str) -> None:
    """Classify the pictures with the command that a reader types, and print what it prints."""
    files = [str(path.relative_to(ROOT)) for path in FILES]
    command = [sys.executable, "-u", "-m", "service.client", "--url", address, "classify", *files]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    print(textwrap.indent(done.stdout, "  "))


if __name__ == "__main__":
    main()
