"""Cost of more workers: CPU time per request, throughput, and the spread of connections: `make bench-workers`.

The load generator shares the machine, so throughput is also given without its cost: responses per second of the
workers' CPU time.
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
REQUESTS_PER_WORKER = 128  # per worker, so that batches have the same size for any number of workers


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repository", type=Path, default=ROOT / "models", help="repository with mnist-simplecnn")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4], help="numbers of workers (%(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each load (%(default)s)")
    parser.add_argument("--seconds", type=float, default=1.0, help="duration of a measurement (%(default)s)")
    arguments = parser.parse_args()
    repository = repository_with(MNIST, arguments.repository, ROOT / "build/bench")
    print("workers   img/s   CPU µs per request   images per CPU second   connections per worker, of 256")
    for workers in arguments.workers:
        with _service(repository, workers) as service:
            supervisor = psutil.Process(service.process.pid)
            processes = [supervisor, *supervisor.children(recursive=True)]
            before = _cpu(processes)
            load = Load(REQUESTS_PER_WORKER * workers, 1)
            rates = [
                generate(service.address, MNIST, load, arguments.seconds).throughput for _ in range(arguments.rounds)
            ]
            cpu_seconds = _cpu(processes) - before
            service.stop()
            answered = sum(_answered(service))
        with _service(repository, workers) as service:
            _call_on_new_connections(service.address)
            service.stop()
            connections = _answered(service)
        cpu_microseconds, images_per_second = 1e6 * cpu_seconds / answered, answered / cpu_seconds
        print(f"{workers:7} {median(rates):7,.0f} {cpu_microseconds:20.1f} {images_per_second:23,.0f}   {connections}")
    print(f"{os.cpu_count()} cores, {REQUESTS_PER_WORKER} requests in flight per worker")


@contextmanager
def _service(repository: Path, workers: int) -> Iterator[ServiceProcess]:
    with service_process(repository, "--workers", str(workers), "--device", "cpu") as service:
        wait_until(
            lambda: sum(line["event"] == "listening" for line in service.events) == workers, "all workers listen"
        )
        yield service


def _answered(service: ServiceProcess) -> list[int]:
    """The requests that each worker answered, from its log event `stopped`."""
    return [line["answered"] for line in service.events if line["event"] == "stopped"]


def _cpu(processes: list[psutil.Process]) -> float:
    return sum(times.user + times.system for times in (process.cpu_times() for process in processes))


def _call_on_new_connections(address: str) -> None:
    """Open CONNECTIONS connections, one after the other, with one call on each."""
    request = infer_request(MNIST, images=np.zeros((1, *SHAPES[MNIST]), np.uint8))
    for number in range(CONNECTIONS):
        options = [("grpc.use_local_subchannel_pool", 1), ("number", number)]
        with grpc.insecure_channel(address, options=options) as channel:
            GRPCInferenceServiceStub(channel).ModelInfer(request)


if __name__ == "__main__":
    main()
