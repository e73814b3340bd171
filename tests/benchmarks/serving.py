"""The service side by side with Triton, both in this run: throughput, latency, start, memory, and their ratios.

`python -m tests.benchmarks.serving [--rounds 3] [--seconds 2] [--json FILE]`

Load comes from NVIDIA's perf_analyzer and the peer is a real Triton, where ../shared/bench/setup has installed them;
without them, a client of our own measures the service alone. Servers run at the same time and are loaded in turn, round
by round; a figure is the median of the rounds, a ratio the median of each round's ratio.
"""

import argparse
import asyncio
import csv
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median
from urllib.error import URLError
from urllib.request import urlopen

import grpc
import numpy as np
import psutil

from tests.support import ROOT, SHARED, infer_request, service_process, wait_until

MODEL = "mnist-simplecnn"
PERF_ANALYZER, TRITON = SHARED / "bench" / "perf_analyzer", SHARED / "bench" / "triton-server"
INSTALLED = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "serving-bench"
TRITON_PORT = 19001


@dataclass(frozen=True)
class Load:
    """So many requests in flight, of so many images each."""

    in_flight: int
    images: int

    def __str__(self) -> str:
        return f"{self.in_flight} × {self.images}"


LOADS = (Load(1, 1), Load(8, 1), Load(32, 1), Load(4, 8), Load(4, 32))


@dataclass(frozen=True)
class Result:
    """Images a second, and latency of a request in milliseconds."""

    throughput: float
    p50: float
    p99: float


Generator = Callable[[str, Load, float], Result]


def perf_analyzer(address: str, load: Load, seconds: float) -> Result:
    """Closed-loop load from NVIDIA's generator; -s 40 accepts rounds of a noisy machine."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.csv"
        flags = ["-m", MODEL, "-i", "grpc", "-u", address, "--async", "-b", str(load.images), "-f", str(report)]
        flags += ["--concurrency-range", str(load.in_flight), "-p", str(int(seconds * 1000)), "-s", "40"]
        done = subprocess.run([str(PERF_ANALYZER), *flags], capture_output=True, text=True, check=False)
        if not report.exists():
            sys.exit(f"perf_analyzer failed:\n{done.stdout}\n{done.stderr}")
        (row,) = csv.DictReader(report.open())
    return Result(float(row["Inferences/Second"]), float(row["p50 latency"]) / 1000, float(row["p99 latency"]) / 1000)


def own_client(address: str, load: Load, seconds: float) -> Result:
    """Closed-loop load from grpc.aio in this process, which tops out sooner than perf_analyzer does."""
    payload = infer_request(MODEL, images=np.zeros((load.images, 28, 28, 1), np.uint8)).SerializeToString()
    latencies: list[float] = []

    async def caller(channel: grpc.aio.Channel, end: float) -> None:
        infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")  # type: ignore[var-annotated]
        while (started := time.perf_counter()) < end:
            await infer(payload)
            latencies.append(time.perf_counter() - started)

    async def main() -> None:
        async with grpc.aio.insecure_channel(address) as channel:
            await asyncio.gather(*(caller(channel, time.perf_counter() + seconds) for _ in range(load.in_flight)))

    asyncio.run(main())
    p50, p99 = np.percentile(latencies, [50, 99]) * 1000
    return Result(len(latencies) * load.images / seconds, float(p50), float(p99))


@contextmanager
def triton(repository: Path) -> Iterator[str]:
    """A real Triton on the same model with one inference thread; its address."""
    command = [str(TRITON), str(repository / MODEL), str(TRITON_PORT), "1"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def ready() -> bool:
        try:
            with urlopen(f"http://127.0.0.1:{TRITON_PORT + 1}/v2/health/ready", timeout=1) as response:
                return bool(response.status == 200)
        except (URLError, OSError):
            return False

    try:
        wait_until(ready, "Triton is ready")
        yield f"127.0.0.1:{TRITON_PORT}"
    finally:
        process.terminate()
        process.wait(60)


@contextmanager
def ours(repository: Path, front: str, facts: dict[str, float]) -> Iterator[str]:
    """Our service with one inference thread; its address. Notes start-up time and memory in `facts`."""
    started = time.perf_counter()
    with service_process(repository, "--front", front, "--threads", "1", "--device", "cpu") as service:
        facts[f"{front}: start to ready, s"] = time.perf_counter() - started
        yield service.address
        memory = psutil.Process(service.process.pid).memory_info().rss / 2**20
        facts[f"{front}: resident memory after the load, MiB"] = memory
        if front == "native":
            facts["client health, s"] = health_seconds(service.address)


def health_seconds(address: str) -> float:
    """How long a container's health check takes, best of 5, interpreter included."""
    command = [sys.executable, "-m", "service.client", "--url", address, "health"]
    times = []
    for _ in range(5):
        started = time.perf_counter()
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
        times.append(time.perf_counter() - started)
    return min(times)


def measure(
    servers: Mapping[str, str], generate: Generator, rounds: int, seconds: float
) -> dict[Load, dict[str, list[Result]]]:
    """Results by load and server, one a round."""
    results: dict[Load, dict[str, list[Result]]] = {load: {name: [] for name in servers} for load in LOADS}
    for address in servers.values():
        generate(address, Load(8, 1), min(seconds, 1.0))  # warm
    for number in range(1, rounds + 1):
        for load in LOADS:
            for name, address in servers.items():
                print(f"\rround {number}/{rounds}  {load!s:8} {name:8}", end="", file=sys.stderr, flush=True)
                results[load][name].append(generate(address, load, seconds))
    print(file=sys.stderr)
    return results


def show(results: dict[Load, dict[str, list[Result]]]) -> None:
    """The table: medians, and ratios to Triton where it ran."""
    names = list(next(iter(results.values())))
    peer = "triton" in names
    head = "".join(f"  {name + ' img/s':>13}  {'p50 ms':>7}  {'p99 ms':>7}" for name in names)
    print(f"{'in flight':10}{head}" + "".join(f"  {n + '/triton':>15}" for n in names if peer and n != "triton"))
    for load, by_server in results.items():
        line = f"{load!s:10}"
        for runs in by_server.values():
            line += f"  {median(r.throughput for r in runs):13,.0f}"
            line += f"  {median(r.p50 for r in runs):7.2f}  {median(r.p99 for r in runs):7.2f}"
        for name, runs in by_server.items():
            if peer and name != "triton":
                line += f"  {ratio(runs, by_server['triton']):14.2f}×"
        print(line)


def ratio(ours: list[Result], theirs: list[Result]) -> float:
    """Median of each round's ratio of throughputs."""
    return median(one.throughput / other.throughput for one, other in zip(ours, theirs, strict=True))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    default = ROOT / "models"
    parser.add_argument("--repository", type=Path, default=default, help="where mnist-simplecnn was published")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0, help="of load, each time")
    parser.add_argument("--json", type=Path, help="also write all results there")
    arguments = parser.parse_args()
    if not (arguments.repository / MODEL).is_dir():
        sys.exit(f"no {MODEL} in {arguments.repository}: run `make demo` or `make train` first")
    has_generator = PERF_ANALYZER.exists() and (INSTALLED / "pa").is_dir()
    has_peer = has_generator and TRITON.exists() and (INSTALLED / "triton").is_dir()
    facts: dict[str, float] = {}
    with ExitStack() as stack:
        servers = {
            front: stack.enter_context(ours(arguments.repository, front, facts)) for front in ("native", "grpcio")
        }
        if has_peer:
            servers["triton"] = stack.enter_context(triton(arguments.repository))
        generator = perf_analyzer if has_generator else own_client
        results = measure(servers, generator, arguments.rounds, arguments.seconds)
    print(f"\nload from {generator.__name__}, {arguments.rounds} × {arguments.seconds:g} s; {os.cpu_count()} cores")
    if not has_peer:
        print(f"Triton was not measured: {SHARED / 'bench' / 'setup'} installs it and perf_analyzer")
    show(results)
    print()
    for name, value in facts.items():
        print(f"{name}: {value:.2f}")
    if arguments.json:
        runtime = "onnxruntime-gpu" if sys.platform == "linux" and platform.machine() == "x86_64" else "onnxruntime"
        packages = ("simplecnn", "grpcio", "numpy", "pygrpc-native", runtime)
        record = {
            "machine": {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()},
            "versions": {name: version(name) for name in packages},
            "facts": facts,
            "results": {
                str(load): {name: [vars(run) for run in runs] for name, runs in by_server.items()}
                for load, by_server in results.items()
            },
        }
        arguments.json.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
