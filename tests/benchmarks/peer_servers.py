"""Benchmark of the service against alternatives, each in its own virtual environment: `make bench-peers`.

The peers are KServe's Python SDK, MLServer and LitServe (HTTP), each with its own batching, and a grpc.aio server of 40
lines: same ONNX file, same load, one inference thread. perf_analyzer needs more of the protocol than they implement, so
our own client generates the load. It is written in Python, shares the machine, and saturates long before our service.
"""

import argparse
import asyncio
import base64
import contextlib
import json
import math
import os
import signal
import subprocess
import sys
import time
import venv
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np

from tests.benchmarks.load import IN_FLIGHT_8, IN_FLIGHT_32, Load, Result, own_client
from tests.benchmarks.models import MNIST, SHAPES, graph_of, repository_with
from tests.benchmarks.servers import ours
from tests.support.paths import ROOT
from tests.support.processes import clean_environment
from tests.support.waiting import wait_until

LOADS = (Load(1, 1), IN_FLIGHT_8, IN_FLIGHT_32)
FOLDER = ROOT / "build/peers"
SCRIPTS = Path(__file__).parent / "peers"

LoadGenerator = Callable[[str, str, Load, float], Result]


@dataclass(frozen=True)
class Peer:
    """The packages of a peer, its command line for (graph, port), and its load generator."""

    packages: tuple[str, ...]
    arguments: Callable[[Path, int], list[str]]
    load: LoadGenerator = own_client


def _script(name: str) -> Callable[[Path, int], list[str]]:
    shape = ",".join(str(size) for size in SHAPES[MNIST])
    return lambda graph, port: [str(SCRIPTS / name), str(graph), str(port), shape]


def _mlserver(_: Path, port: int) -> list[str]:
    folder = FOLDER / "mlserver-model"
    folder.mkdir(parents=True, exist_ok=True)
    settings = {"host": "127.0.0.1", "http_port": port + 1, "grpc_port": port, "metrics_port": port + 2}
    model = {"name": MNIST, "implementation": "mlserver_runtime.Network", "max_batch_size": 64, "max_batch_time": 0.001}
    (folder / "settings.json").write_text(json.dumps(settings | {"parallel_workers": 0, "debug": False}))
    (folder / "model-settings.json").write_text(json.dumps(model))
    return ["-c", "from mlserver.cli import main; main()", "start", str(folder)]


def _http(address: str, model: str, load: Load, seconds: float) -> Result:
    """Closed-loop load of single images over HTTP/1.1, one connection per caller; JSON with base64, for LitServe."""
    host, port = address.split(":")
    body = json.dumps({"images": base64.b64encode(bytes(math.prod(SHAPES[model]))).decode()}).encode()
    head = f"POST /predict HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
    head += f"Content-Length: {len(body)}\r\n\r\n"
    latencies: list[float] = []

    async def caller(end: float) -> None:
        reader, writer = await asyncio.open_connection(host, int(port))
        while (started := time.perf_counter()) < end:
            writer.write(head.encode() + body)
            answer = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            assert " 200 " in answer.splitlines()[0], answer
            await reader.readexactly(int(answer.split("content-length: ")[1].split("\r\n")[0]))
            latencies.append(time.perf_counter() - started)
        writer.close()

    async def callers() -> None:
        await asyncio.gather(*(caller(time.perf_counter() + seconds) for _ in range(load.in_flight)))

    asyncio.run(callers())
    p50, p99 = np.percentile(latencies, [50, 99]) * 1000
    return Result(len(latencies) / seconds, float(p50), float(p99))


PEERS = {
    "plain grpc.aio": Peer(("grpcio>=1.81", "protobuf>=6.33.5", "numpy", "onnxruntime"), _script("plain_grpc.py")),
    "KServe SDK": Peer(("kserve==0.21.0", "onnxruntime"), _script("kserve_server.py")),
    "MLServer": Peer(("mlserver==1.7.1", "onnxruntime"), _mlserver),
    "LitServe": Peer(("litserve==0.2.19", "onnxruntime"), _script("litserve_server.py"), _http),
}


def python_of(name: str, peer: Peer) -> Path:
    """The interpreter of the peer's virtual environment, which is created on first use."""
    folder = FOLDER / name.split()[0].lower()
    python = folder / "bin/python"
    if not (folder / "installed").exists():
        print(f"installing {name}", file=sys.stderr)
        venv.create(folder, with_pip=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *peer.packages], check=True)
        (folder / "installed").touch()
    return python


@contextmanager
def running(name: str, peer: Peer, graph: Path, port: int) -> Iterator[str]:
    """Run the peer on `port` of the loopback interface; yields its address."""
    environment = clean_environment() | {"PYTHONPATH": f"{ROOT}:{SCRIPTS}", "GRAPH": str(graph)}
    log = (FOLDER / f"{name.split()[0].lower()}.log").open("w")
    process = subprocess.Popen(
        [str(python_of(name, peer)), *peer.arguments(graph, port)],
        cwd=FOLDER, env=environment, stdout=log, stderr=log, start_new_session=True,
    )  # fmt: skip
    address = f"127.0.0.1:{port}"

    def is_ready() -> bool:
        assert process.poll() is None, f"{name} exited: see {log.name}"
        try:
            return peer.load(address, MNIST, Load(1, 1), 0.05).throughput > 0
        except Exception:  # noqa: BLE001 # any failure means that it is not ready yet
            return False

    try:
        wait_until(is_ready, f"{name} is ready; see {log.name}")
        yield address
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # and its child processes
        process.wait()
        log.close()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repository", type=Path, default=ROOT / "models", help="repository with mnist-simplecnn")
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each load (%(default)s)")
    parser.add_argument("--seconds", type=float, default=2.0, help="duration of a measurement (%(default)s)")
    arguments = parser.parse_args()
    FOLDER.mkdir(parents=True, exist_ok=True)
    repository = repository_with(MNIST, arguments.repository, ROOT / "build/bench")
    results: dict[tuple[Load, str], list[Result]] = {}
    with ExitStack() as stack:
        service = stack.enter_context(ours(repository, MNIST, "native"))
        addresses: dict[str, tuple[str, LoadGenerator]] = {"native server": (service.address, own_client)}
        for index, (name, peer) in enumerate(PEERS.items()):
            server = running(name, peer, graph_of(repository, MNIST), 19500 + 10 * index)
            addresses[name] = (stack.enter_context(server), peer.load)
        for _ in range(arguments.rounds):
            for load in LOADS:
                for name, (address, generate) in addresses.items():
                    results.setdefault((load, name), []).append(generate(address, MNIST, load, arguments.seconds))
    print("| in flight × images | server | img/s | p50 ms | p99 ms | native / server |\n|---|---|---|---|---|---|")
    for (load, name), runs in results.items():
        native_runs = results[load, "native server"]
        ratio = median(native.throughput / run.throughput for native, run in zip(native_runs, runs, strict=True))
        p50, p99 = median(run.p50 for run in runs), median(run.p99 for run in runs)
        rate = median(run.throughput for run in runs)
        print(f"| {load} | {name} | {rate:,.0f} | {p50:.2f} | {p99:.2f} | {ratio:.1f} |")


if __name__ == "__main__":
    main()
