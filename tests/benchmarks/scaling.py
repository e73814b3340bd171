"""Measures the costs that fleet.py simulates, and compares its one-replica case with the service: `make bench-scaling`.

- Cost of a batch by its rows: from the service's own statistics (ModelStatistics).
- Cost of decoding a request, on the same thread: the rest of the time per request at 128 in flight, where that thread
  is never idle.
- Client and network: part of their time per request is serialised, part passes in parallel. The bare echo's latency at
  1 in flight is the sum. The serialised part is the echo's time per request under load or, when all share two busy
  cores, the CPU time of the load generator and of the echo.

From these costs the simulation predicts the throughput at 1, 8 and 32 in flight.
"""

import argparse
import resource
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import grpc

from service.pb import inference_pb2 as pb
from service.pb.inference_pb2_grpc import GRPCInferenceServiceStub
from tests.benchmarks.fleet import Costs, closed_loop
from tests.benchmarks.load import HAS_PERF_ANALYZER, Load, generate
from tests.benchmarks.models import MNIST, repository_with
from tests.benchmarks.servers import Server, echo, ours
from tests.support.paths import ROOT

LOADS = (Load(1, 1), Load(8, 1), Load(32, 1))
SATURATED = Load(128, 1)
# Largest allowed relative difference between the simulated and the measured throughput.
MAX_DIFFERENCE = 0.15


def batch_seconds(server: Server) -> dict[int, tuple[int, float]]:
    """By rows: the number of batches, and the total seconds to assemble, compute and answer them."""
    with grpc.insecure_channel(server.address) as channel:
        stub = GRPCInferenceServiceStub(channel)
        (statistics,) = stub.ModelStatistics(pb.ModelStatisticsRequest(name=server.model)).model_stats
    return {
        size.batch_size: (
            size.compute_infer.count,
            1e-9 * (size.compute_input.ns + size.compute_infer.ns + size.compute_output.ns),
        )
        for size in statistics.batch_stats
    }


def curve_of(batches: dict[int, tuple[int, float]]) -> list[tuple[int, float]]:
    """(rows, mean seconds) of the batch sizes with at least 50 batches."""
    return [(rows, seconds / count) for rows, (count, seconds) in sorted(batches.items()) if count >= 50]


def cpu_of_children() -> float:
    """CPU time of all child processes that have ended, that is of the load generator."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


@dataclass(frozen=True)
class Sample:
    """One load on one server: responses per second, and CPU seconds per request of load generator and server."""

    throughput: float
    generator: float
    server: float


def sample(server: Server, load: Load, seconds: float) -> Sample:
    """Load the server and measure."""
    before, generator = server.usage(), cpu_of_children()
    throughput = generate(server.address, MNIST, load, seconds).throughput
    usage, generator = server.usage().since(before), cpu_of_children() - generator
    return Sample(throughput, generator / usage.requests, usage.cpu_seconds / usage.requests)


def main() -> None:
    """Measure, simulate, compare; exit status 1 if they differ by more than MAX_DIFFERENCE."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repository", type=Path, default=ROOT / "models", help="repository with mnist-simplecnn")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each load (%(default)s)")
    parser.add_argument("--seconds", type=float, default=1.0, help="duration of a measurement (%(default)s)")
    arguments = parser.parse_args()
    if not HAS_PERF_ANALYZER:
        sys.exit("perf_analyzer is not installed: run ../shared/bench/setup")
    repository = repository_with(MNIST, arguments.repository, ROOT / "build/bench")
    service_samples: dict[Load, list[Sample]] = {load: [] for load in (*LOADS, SATURATED)}
    echo_samples: dict[Load, list[Sample]] = {load: [] for load in LOADS}
    with ExitStack() as stack:
        server = stack.enter_context(ours(repository, MNIST, "native"))
        echo_server = stack.enter_context(echo(MNIST, server))
        for _ in range(arguments.rounds):
            for load in service_samples:
                service_samples[load].append(sample(server, load, arguments.seconds))
            for load in echo_samples:
                echo_samples[load].append(sample(echo_server, load, arguments.seconds))
        curve = curve_of(batch_seconds(server))
    largest, largest_seconds = curve[-1]
    decoding = max(0.0, 1 / median(run.throughput for run in service_samples[SATURATED]) - largest_seconds / largest)
    sizes = "  ".join(f"{rows}: {seconds * 1e6:.0f}" for rows, seconds in curve if rows & (rows - 1) == 0)
    print(f"batch, by rows, µs                {sizes}\ndecoding, per request, µs         {decoding * 1e6:.1f}")
    worst = 0.0
    serialised = 1 / median(run.throughput for run in echo_samples[LOADS[-1]])
    delay = 1 / median(run.throughput for run in echo_samples[LOADS[0]]) - serialised
    print(f"client and network, parallel, µs  {delay * 1e6:.0f}\n")
    print("in flight   serialised µs   measured/s   simulated/s   difference")
    for load in LOADS:
        cpu_seconds = median(run.generator for run in service_samples[load]) + median(
            run.server for run in echo_samples[load]
        )
        outside = serialised if load.in_flight == 1 else max(serialised, cpu_seconds)
        costs = Costs([(rows, seconds + rows * decoding) for rows, seconds in curve], outside, delay)
        simulated = closed_loop(costs, load.in_flight).throughput
        measured = median(run.throughput for run in service_samples[load])
        difference = simulated / measured - 1
        worst = max(worst, abs(difference))
        print(f"{load.in_flight:9} {outside * 1e6:15.0f} {measured:12,.0f} {simulated:13,.0f} {difference:12.0%}")
    sys.exit(
        f"simulation and measurement differ by {worst:.0%}, more than {MAX_DIFFERENCE:.0%}"
        if worst > MAX_DIFFERENCE
        else 0
    )


if __name__ == "__main__":
    main()
