"""What is measured: our service, a real Triton, a bare echo on the same grpc_server, and ONNX Runtime alone."""

import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from urllib.error import URLError
from urllib.request import urlopen

import grpc
import numpy as np
import onnxruntime
import psutil

from service.pb import inference_pb2 as pb
from service.pb.inference_pb2_grpc import GRPCInferenceServiceStub
from tests.benchmarks.load import INSTALLED
from tests.support.paths import ROOT, SHARED
from tests.support.processes import service_process
from tests.support.waiting import wait_until

TRITON = SHARED / "bench" / "triton-server"
HAS_TRITON = TRITON.exists() and (INSTALLED / "triton").is_dir()
TRITON_PORT = 19001


@dataclass(frozen=True)
class Spent:
    """What a server did so far: requests answered, its processor time, and batches by number of rows."""

    requests: int
    cpu_seconds: float
    batches: Mapping[int, int]

    def since(self, earlier: "Spent") -> "Spent":
        """What came after `earlier`."""
        batches = {rows: count - earlier.batches.get(rows, 0) for rows, count in self.batches.items()}
        return Spent(
            self.requests - earlier.requests,
            self.cpu_seconds - earlier.cpu_seconds,
            {rows: count for rows, count in batches.items() if count},
        )


@dataclass(frozen=True)
class Server:
    """A server that runs: where, which model, and its processes."""

    address: str
    model: str
    process: psutil.Process

    def spent(self) -> Spent:
        """What it did so far, by its own statistics and the system's."""
        with grpc.insecure_channel(self.address) as channel:
            stub = GRPCInferenceServiceStub(channel)
            (statistics,) = stub.ModelStatistics(pb.ModelStatisticsRequest(name=self.model)).model_stats
        cpu = 0.0
        for process in (self.process, *self.process.children(recursive=True)):
            times = process.cpu_times()
            cpu += times.user + times.system
        batches = {size.batch_size: size.compute_infer.count for size in statistics.batch_stats}
        return Spent(statistics.inference_stats.success.count, cpu, batches)


@contextmanager
def ours(repository: Path, model: str, grpc_server: str, facts: dict[str, float] | None = None) -> Iterator[Server]:
    """Our service with one inference thread. Notes start-up time and memory in `facts`."""
    started = time.perf_counter()
    with service_process(repository, "--grpc-server", grpc_server, "--threads", "1", "--device", "cpu") as service:
        if facts is not None:
            facts[f"{grpc_server}: start to ready, s"] = time.perf_counter() - started
        process = psutil.Process(service.process.pid)
        yield Server(service.address, model, process)
        if facts is not None:
            facts[f"{grpc_server}: resident memory after the load, MiB"] = process.memory_info().rss / 2**20
            facts["client health, s"] = _health_seconds(service.address)


def _health_seconds(address: str) -> float:
    """How long a container's health check takes, best of 5, interpreter included."""
    command = [sys.executable, "-m", "service.client", "--url", address, "health"]
    times = []
    for _ in range(5):
        started = time.perf_counter()
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
        times.append(time.perf_counter() - started)
    return min(times)


@contextmanager
def triton(repository: Path, model: str) -> Iterator[Server]:
    """A real Triton on the same graph with one inference thread."""
    command = [str(TRITON), str(repository / model), str(TRITON_PORT), "1"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def ready() -> bool:
        try:
            with urlopen(f"http://127.0.0.1:{TRITON_PORT + 1}/v2/health/ready", timeout=1) as response:
                return bool(response.status == 200)
        except (URLError, OSError):
            return False

    try:
        wait_until(ready, "Triton is ready")
        yield Server(f"127.0.0.1:{TRITON_PORT}", model, psutil.Process(process.pid))
    finally:
        process.terminate()
        process.wait(60)


@contextmanager
def echo(model: str, like: Server) -> Iterator[Server]:
    """The native grpc_server with nothing behind it: every ModelInfer gets the answer that `like` gave to one."""
    command = [sys.executable, "-m", "tests.benchmarks.echo", like.address, model]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield Server(process.stdout.readline().strip(), model, psutil.Process(process.pid))
    finally:
        process.kill()
        process.communicate()


class InProcess:
    """ONNX Runtime on the same graph, in this process, with one thread and nothing else: the limit of every server."""

    def __init__(self, graph: Path, image: tuple[int, int, int]) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        self._image = image

    def seconds(self, rows: int, least: float = 0.1) -> float:
        """The middle time of a batch of so many rows, of at least 5 runs and `least` seconds; on one thread."""
        images = np.random.default_rng(rows).integers(0, 256, (rows, *self._image), np.uint8)
        times: list[float] = []
        while len(times) < 5 or sum(times) < least:
            started = time.perf_counter()
            self._session.run(None, {"images": images})
            times.append(time.perf_counter() - started)
        return median(times)

    def seconds_for(self, batches: Mapping[int, int]) -> float:
        """How long those batches, numbers by rows, take one after the other; sizes that hardly came are left out."""
        total = sum(batches.values())
        often = {rows: count for rows, count in batches.items() if count > 0.005 * total}
        rows_often = sum(rows * count for rows, count in often.items())
        rows_all = sum(rows * count for rows, count in batches.items())
        return sum(self.seconds(rows) * count for rows, count in often.items()) * rows_all / rows_often
