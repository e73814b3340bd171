"""Load generators: NVIDIA's perf_analyzer if ../shared/bench/setup has installed it, else our own client."""

import asyncio
import csv
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np

from tests.benchmarks.models import SHAPES
from tests.support.paths import SHARED
from tests.support.requests import infer_request

PERF_ANALYZER = SHARED / "bench" / "perf_analyzer"
INSTALLED = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "serving-bench"
HAS_PERF_ANALYZER = PERF_ANALYZER.exists() and (INSTALLED / "pa").is_dir()
# A run of perf_analyzer is ended after this time.
MAX_RUN_SECONDS = 90.0


@dataclass(frozen=True)
class Load:
    """Closed loop: `in_flight` requests of `images` images each. Open loop: `rate` requests per second, if not 0."""

    in_flight: int
    images: int
    rate: float = 0.0

    def __str__(self) -> str:
        return f"{self.rate:,.0f}/s" if self.rate else f"{self.in_flight} × {self.images}"


IN_FLIGHT_8, IN_FLIGHT_32 = Load(8, 1), Load(32, 1)


@dataclass(frozen=True)
class Result:
    """Throughput in images per second, and request latency in milliseconds."""

    throughput: float
    p50: float
    p99: float


def generate(address: str, model: str, load: Load, seconds: float, ca: Path | None = None) -> Result:
    """Load the server at `address` and measure it, over TLS if `ca` names its authority's certificate."""
    return (_perf_analyzer if HAS_PERF_ANALYZER else own_client)(address, model, load, seconds, ca)


def _perf_analyzer(address: str, model: str, load: Load, seconds: float, ca: Path | None = None) -> Result:
    """Load from perf_analyzer. Its stability threshold (-s, percent) is loose: our rounds average out the noise."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.csv"
        flags = ["-m", model, "-i", "grpc", "-u", address, "--async", "-b", str(load.images), "-f", str(report)]
        flags += ["-p", str(int(seconds * 1000)), "-s", "40", "--max-trials", "6"]
        if ca:
            flags += ["--ssl-grpc-use-ssl", "--ssl-grpc-root-certifications-file", str(ca)]
        if load.rate:
            flags += ["--request-rate-range", f"{load.rate:.0f}", "--request-distribution", "poisson"]
        else:
            flags += ["--concurrency-range", str(load.in_flight)]
        try:
            done = subprocess.run(
                [str(PERF_ANALYZER), *flags], capture_output=True, text=True, check=False, timeout=MAX_RUN_SECONDS
            )
            output = f"{done.stdout}\n{done.stderr}"
        except subprocess.TimeoutExpired as error:
            output = str(error)
        if not report.exists():
            if load.rate:  # beyond capacity, latency never becomes stable
                return Result(float("nan"), float("nan"), float("nan"))
            sys.exit(f"perf_analyzer failed:\n{output}")
        (row,) = csv.DictReader(report.open())
    return Result(float(row["Inferences/Second"]), float(row["p50 latency"]) / 1000, float(row["p99 latency"]) / 1000)


def own_client(address: str, model: str, load: Load, seconds: float, ca: Path | None = None) -> Result:
    """Closed-loop load from grpc.aio in this process; its maximum is lower than that of perf_analyzer."""
    if load.rate:
        return Result(float("nan"), float("nan"), float("nan"))
    payload = infer_request(model, images=np.zeros((load.images, *SHAPES[model]), np.uint8)).SerializeToString()
    latencies: list[float] = []

    async def caller(channel: grpc.aio.Channel, end: float) -> None:
        infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")  # type: ignore[var-annotated]
        while (started := time.perf_counter()) < end:
            await infer(payload)
            latencies.append(time.perf_counter() - started)

    async def main() -> None:
        credentials = grpc.ssl_channel_credentials(ca.read_bytes()) if ca else None
        secure = grpc.aio.secure_channel(address, credentials) if credentials else grpc.aio.insecure_channel(address)
        async with secure as channel:
            await asyncio.gather(*(caller(channel, time.perf_counter() + seconds) for _ in range(load.in_flight)))

    asyncio.run(main())
    p50, p99 = np.percentile(latencies, [50, 99]) * 1000
    return Result(len(latencies) * load.images / seconds, float(p50), float(p99))
