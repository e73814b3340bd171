"""What the edge costs: the service alone, behind the edge and behind it with TLS, beside Triton: `make bench-edge`.

`python -m tests.benchmarks.edge [--rounds 5]`

h2load (nghttp2) is the load: it takes less of a small machine than perf_analyzer, and sends a request in one write.
All servers run at the same time and are loaded in turn. CPU time is that of all processes of a side: Envoy, the program
that runs it and the service. A ratio is the median of each round's ratio.
"""

import argparse
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np

from tests.benchmarks.models import MNIST, SHAPES
from tests.benchmarks.servers import HAS_TRITON, Server, behind_edge, ours, triton
from tests.support.paths import ROOT
from tests.support.requests import infer_request

IN_FLIGHT = (8, 32)
CALLS, WARM_UP = 8000, 2000
METHOD = "/inference.GRPCInferenceService/ModelInfer"
Sample = tuple[float, float]  # CPU time a call in microseconds, calls per second


def measure(server: Server, body: Path, in_flight: int, calls: int = CALLS) -> Sample:
    """Make the calls on one connection."""
    url = f"{'https' if server.ca else 'http'}://{server.address}{METHOD}"
    headers = ["-H", "te: trailers", "-H", "content-type: application/grpc"]
    before, began = server.usage(), time.perf_counter()
    command = ["h2load", "-c", "1", "-m", str(in_flight), "-n", str(calls), "-d", str(body), *headers, url]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    seconds, usage = time.perf_counter() - began, server.usage().since(before)
    if f"{calls} succeeded" not in done.stdout:
        sys.exit(f"h2load: {done.stdout}")
    return 1e6 * usage.cpu_seconds / usage.requests, calls / seconds


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repository", type=Path, default=ROOT / "models", help="repository with mnist-simplecnn")
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each load (%(default)s)")
    arguments = parser.parse_args()
    if not shutil.which("h2load"):
        sys.exit("h2load is not installed: apt-get install nghttp2-client")
    repository = arguments.repository
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        message = infer_request(MNIST, images=np.zeros((1, *SHAPES[MNIST]), np.uint8)).SerializeToString()
        body = folder / "body"
        body.write_bytes(b"\0" + struct.pack(">I", len(message)) + message)
        servers = {"native": stack.enter_context(ours(repository, MNIST, "native"))}
        for name, tls in (("edge", False), ("edge TLS", True)):
            (folder / name).mkdir()
            servers[name] = stack.enter_context(behind_edge(repository, MNIST, folder / name, tls=tls))
        if HAS_TRITON:
            servers["triton"] = stack.enter_context(triton(repository, MNIST))
        for server in servers.values():
            measure(server, body, IN_FLIGHT[0], WARM_UP)
        samples: dict[tuple[int, str], list[Sample]] = {}
        for _ in range(arguments.rounds):
            for in_flight in IN_FLIGHT:
                for name, server in servers.items():
                    samples.setdefault((in_flight, name), []).append(measure(server, body, in_flight))
    show(samples)


def show(samples: dict[tuple[int, str], list[Sample]]) -> None:
    """Print medians, and ratios to Triton if that ran."""
    print(f"{'in flight':>9} {'server':9} {'CPU µs':>7} {'calls/s':>8} {'CPU/Triton':>11} {'calls/Triton':>13}")
    for (in_flight, name), runs in samples.items():
        peer = samples.get((in_flight, "triton"), [])

        def ratio(value: Callable[[Sample], float], runs: list[Sample] = runs, peer: list[Sample] = peer) -> str:
            ratios = [value(run) / value(other) for run, other in zip(runs, peer, strict=False)]
            return f"{median(ratios):.2f}" if ratios else "-"

        cpu, rate = (median(run[index] for run in runs) for index in (0, 1))
        ratios = (ratio(lambda run: run[0]), ratio(lambda run: run[1]))
        print(f"{in_flight:9} {name:9} {cpu:7.0f} {rate:8,.0f} {ratios[0]:>11} {ratios[1]:>13}")


if __name__ == "__main__":
    main()
