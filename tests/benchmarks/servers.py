"""The measured servers: our service, a real Triton, a bare echo on the native server, and ONNX Runtime alone."""

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
from tests.support.certificates import Authority, tls_folder
from tests.support.edge import edge_process
from tests.support.paths import ROOT, SHARED
from tests.support.processes import service_process
from tests.support.waiting import wait_until

TRITON = SHARED / "bench" / "triton-server"
HAS_TRITON = TRITON.exists() and (INSTALLED / "triton").is_dir()
TRITON_PORT = 19001


@dataclass(frozen=True)
class Usage:
    """Totals of a server so far: answered requests, CPU time, and number of batches by rows."""

    requests: int
    cpu_seconds: float
    batches: Mapping[int, int]

    def since(self, earlier: "Usage") -> "Usage":
        """The difference to `earlier`."""
        batches = {rows: count - earlier.batches.get(rows, 0) for rows, count in self.batches.items()}
        return Usage(
            self.requests - earlier.requests,
            self.cpu_seconds - earlier.cpu_seconds,
            {rows: count for rows, count in batches.items() if count},
        )


@dataclass(frozen=True)
class Server:
    """A running server: its address, its model, and its processes, of which the CPU time counts, children included.

    `ca` is the certificate of the authority of a server with TLS; `statistics` is an address without TLS, where the
    server itself is asked what it did.
    """

    address: str
    model: str
    processes: tuple[psutil.Process, ...]
    ca: Path | None = None
    statistics: str = ""

    def usage(self) -> Usage:
        """Totals so far, from ModelStatistics and from the CPU time of all its processes."""
        with grpc.insecure_channel(self.statistics or self.address) as channel:
            stub = GRPCInferenceServiceStub(channel)
            (statistics,) = stub.ModelStatistics(pb.ModelStatisticsRequest(name=self.model)).model_stats
        cpu = 0.0
        children = [child for process in self.processes for child in process.children(recursive=True)]
        for process in (*self.processes, *children):
            times = process.cpu_times()
            cpu += times.user + times.system
        batches = {size.batch_size: size.compute_infer.count for size in statistics.batch_stats}
        return Usage(statistics.inference_stats.success.count, cpu, batches)


@contextmanager
def ours(repository: Path, model: str, grpc_server: str, facts: dict[str, float] | None = None) -> Iterator[Server]:
    """Our service with one inference thread. Records its start-up time and its memory in `facts`."""
    started = time.perf_counter()
    with service_process(
        repository, "--grpc-server", grpc_server, "--intra-op-threads", "1", "--device", "cpu"
    ) as service:
        if facts is not None:
            facts[f"{grpc_server}: start to ready, s"] = time.perf_counter() - started
        process = psutil.Process(service.process.pid)
        yield Server(service.address, model, (process,))
        if facts is not None:
            facts[f"{grpc_server}: resident memory after the load, MiB"] = process.memory_info().rss / 2**20
            facts["client health, s"] = _health_seconds(service.address)


@contextmanager
def behind_edge(repository: Path, model: str, folder: Path, *, tls: bool = False) -> Iterator[Server]:
    """Our service with the native server, behind the edge."""
    authority = Authority(folder / "ca") if tls else None
    certificates = str(tls_folder(folder / "tls", authority)) if authority else ""
    with (
        ours(repository, model, "native") as service,
        edge_process(service.address, folder, tls_folder=certificates) as edge,
    ):
        processes = (*service.processes, psutil.Process(edge.process.pid))
        ca = authority.ca if authority else None
        yield Server(edge.address, model, processes, ca=ca, statistics=service.address)


def _health_seconds(address: str) -> float:
    """Seconds of a container's health check, interpreter start included; the best of 5."""
    command = [sys.executable, "-m", "service.client", "--url", address, "health"]
    times = []
    for _ in range(5):
        started = time.perf_counter()
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
        times.append(time.perf_counter() - started)
    return min(times)


@contextmanager
def triton(repository: Path, model: str) -> Iterator[Server]:
    """A real Triton on the same ONNX file with one inference thread."""
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
        yield Server(f"127.0.0.1:{TRITON_PORT}", model, (psutil.Process(process.pid),))
    finally:
        process.terminate()
        process.wait(60)


@contextmanager
def echo(model: str, original: Server) -> Iterator[Server]:
    """The native server's library alone: it answers every ModelInfer with one recorded response of `original`."""
    command = [sys.executable, "-m", "tests.benchmarks.echo", original.address, model]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield Server(process.stdout.readline().strip(), model, (psutil.Process(process.pid),))
    finally:
        process.kill()
        process.communicate()


class InProcess:
    """ONNX Runtime alone on the same ONNX file, in this process, on one thread: the upper limit of every server."""

    def __init__(self, graph: Path, image: tuple[int, int, int]) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        self._image = image

    def seconds(self, rows: int, min_seconds: float = 0.1) -> float:
        """Median time of a batch of `rows` rows, over at least 5 runs and `min_seconds` seconds."""
        images = np.random.default_rng(rows).integers(0, 256, (rows, *self._image), np.uint8)
        times: list[float] = []
        while len(times) < 5 or sum(times) < min_seconds:
            started = time.perf_counter()
            self._session.run(None, {"images": images})
            times.append(time.perf_counter() - started)
        return median(times)

    def seconds_for(self, batches: Mapping[int, int]) -> float:
        """Seconds of all `batches` (counts by rows) in sequence; rare sizes are extrapolated, not measured."""
        total = sum(batches.values())
        frequent = {rows: count for rows, count in batches.items() if count > 0.005 * total}
        frequent_rows = sum(rows * count for rows, count in frequent.items())
        all_rows = sum(rows * count for rows, count in batches.items())
        return sum(self.seconds(rows) * count for rows, count in frequent.items()) * all_rows / frequent_rows
