"""What more workers cost: processor time a request, throughput, and how connections spread. `make bench-workers`.

The load generator shares the machine, so throughput is also given with its cost taken out: answers for each second of
processor time that the workers spent.
"""

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import grpc
import numpy as np
import psutil

from service.pb.inference_pb2_grpc import GRPCInferenceServiceStub
from tests.benchmarks.load import Load, generate
from tests.benchmarks.models import MNIST, SHAPES, repository_with
from tests.support.paths import ROOT
from tests.support.processes import ServiceProcess, service_process
from tests.support.requests import infer_request
from tests.support.waiting import wait_until

CONNECTIONS = 256
MAX_STREAM_REQUESTS = 128  # a worker: batches are as large then, however many workers there are


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repository", type=Path, default=ROOT / "models", help="where mnist-simplecnn was published")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0)
    arguments = parser.parse_args()
    repository = repository_with(MNIST, arguments.repository, ROOT / "build/bench")
    print("workers   img/s   CPU µs a request   img/s a processor-second   of 256 connections, a worker")
    for workers in arguments.workers:
        with _team(repository, workers) as service:
            supervisor = psutil.Process(service.process.pid)
            team = [supervisor, *supervisor.children(recursive=True)]
            before = _cpu(team)
            load = Load(MAX_STREAM_REQUESTS * workers, 1)
            rates = [
                generate(service.address, MNIST, load, arguments.seconds).throughput for _ in range(arguments.rounds)
            ]
            spent = _cpu(team) - before
            service.stop()
            answered = sum(_answered(service))
        with _team(repository, workers) as service:
            _spread(service.address)
            service.stop()
            spread = _answered(service)
        print(f"{workers:7} {median(rates):7,.0f} {1e6 * spent / answered:18.1f} {answered / spent:26,.0f}   {spread}")
    print(f"{os.cpu_count()} processors, {MAX_STREAM_REQUESTS} requests in flight a worker")


@contextmanager
def _team(repository: Path, workers: int) -> Iterator[ServiceProcess]:
    with service_process(repository, "--workers", str(workers), "--device", "cpu") as service:
        wait_until(lambda: sum(line["event"] == "listening" for line in service.events) == workers, "all listen")
        yield service


def _answered(service: ServiceProcess) -> list[int]:
    """How many requests each worker answered, as they say when they stop."""
    return [line["answered"] for line in service.events if line["event"] == "stopped"]


def _cpu(processes: list[psutil.Process]) -> float:
    return sum(times.user + times.system for times in (process.cpu_times() for process in processes))


def _spread(address: str) -> None:
    """One call on each of many new connections."""
    request = infer_request(MNIST, images=np.zeros((1, *SHAPES[MNIST]), np.uint8))
    for number in range(CONNECTIONS):
        options = [("grpc.use_local_subchannel_pool", 1), ("number", number)]
        with grpc.insecure_channel(address, options=options) as channel:
            GRPCInferenceServiceStub(channel).ModelInfer(request)


if __name__ == "__main__":
    main()
