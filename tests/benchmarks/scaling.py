"""The costs of fleet.py, measured, and its one-replica case beside the real service: `make bench-scaling`.

- What a batch costs by its rows is what the service itself notes of its batches.
- Reading and checking a request, which the same thread does, is what is missing to its throughput at 128 in flight,
  where it never rests.
- Client and wire take each request some time in turn and some delay in parallel. Both together are a bare echo's
  latency one at a time; in turn it is the echo's time a request under load or, where all share two busy processors,
  the processor time of the load generator and of the echo.

From these the simulation foretells the throughput at 1, 8 and 32 in flight.
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
AGREEMENT = 0.15


def batch_seconds(server: Server) -> dict[int, tuple[int, float]]:
    """By rows: how many batches there were, and the seconds in which they were put together, computed and answered."""
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
    """(rows, mean seconds) of the sizes that came often enough to tell."""
    return [(rows, seconds / count) for rows, (count, seconds) in sorted(batches.items()) if count >= 50]


def cpu_of_children() -> float:
    """Processor time of the child processes that have ended: the load generator's."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


@dataclass(frozen=True)
class Sample:
    """One load on one server: answers a second, and processor time a request of the generator and of the server."""

    throughput: float
    generator: float
    server: float


def sample(server: Server, load: Load, seconds: float) -> Sample:
    """Put the load on the server."""
    before, generator = server.spent(), cpu_of_children()
    throughput = generate(server.address, MNIST, load, seconds).throughput
    spent, generator = server.spent().since(before), cpu_of_children() - generator
    return Sample(throughput, generator / spent.requests, spent.cpu_seconds / spent.requests)


def main() -> None:
    """Measure, simulate, compare; exit status 1 if they do not agree."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repository", type=Path, default=ROOT / "models", help="where mnist-simplecnn was published")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1.0)
    arguments = parser.parse_args()
    if not HAS_PERF_ANALYZER:
        sys.exit("perf_analyzer is needed: ../shared/bench/setup installs it")
    repository = repository_with(MNIST, arguments.repository, ROOT / "build/bench")
    real: dict[Load, list[Sample]] = {load: [] for load in (*LOADS, SATURATED)}
    bare: dict[Load, list[Sample]] = {load: [] for load in LOADS}
    with ExitStack() as stack:
        server = stack.enter_context(ours(repository, MNIST, "native"))
        nothing = stack.enter_context(echo(MNIST, server))
        for _ in range(arguments.rounds):
            for load in real:
                real[load].append(sample(server, load, arguments.seconds))
            for load in bare:
                bare[load].append(sample(nothing, load, arguments.seconds))
        curve = curve_of(batch_seconds(server))
    full, full_seconds = curve[-1]
    reading = max(0.0, 1 / median(one.throughput for one in real[SATURATED]) - full_seconds / full)
    sizes = "  ".join(f"{rows}: {seconds * 1e6:.0f}" for rows, seconds in curve if rows & (rows - 1) == 0)
    print(f"a batch by its rows, µs  {sizes}\nreading a request, µs    {reading * 1e6:.1f}")
    worst = 0.0
    in_turn = 1 / median(one.throughput for one in bare[LOADS[-1]])
    delay = 1 / median(one.throughput for one in bare[LOADS[0]]) - in_turn
    print(f"client and wire, delay, µs {delay * 1e6:.0f}\n")
    print("in flight   outside µs   measured/s   simulated/s   difference")
    for load in LOADS:
        busy = median(one.generator for one in real[load]) + median(one.server for one in bare[load])
        outside = in_turn if load.in_flight == 1 else max(in_turn, busy)
        costs = Costs([(rows, seconds + rows * reading) for rows, seconds in curve], outside, delay)
        simulated = closed_loop(costs, load.in_flight).throughput
        measured = median(one.throughput for one in real[load])
        difference = simulated / measured - 1
        worst = max(worst, abs(difference))
        print(f"{load.in_flight:9} {outside * 1e6:12.0f} {measured:12,.0f} {simulated:13,.0f} {difference:12.0%}")
    sys.exit(f"they differ by {worst:.0%}, more than {AGREEMENT:.0%}" if worst > AGREEMENT else 0)


if __name__ == "__main__":
    main()
