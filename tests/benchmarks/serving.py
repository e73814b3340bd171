"""Benchmark of the service against Triton, ONNX Runtime alone and a bare echo, in one run: `make bench`.

`python -m tests.benchmarks.serving [--rounds 5] [--seconds 1] [--models …] [--json FILE]`

For each model all servers run at the same time and are loaded in turn, round by round. A figure is the median over the
rounds; a ratio is the median of each round's ratio. README.md beside this file has the columns and the results.
"""

import argparse
import json
import os
import platform
import re
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from tests.benchmarks.load import HAS_PERF_ANALYZER, IN_FLIGHT_8, IN_FLIGHT_32, Load, generate
from tests.benchmarks.models import CIFAR, MNIST, RESNET, SHAPES, graph_of, repository_with
from tests.benchmarks.report import Record, Run, Runs, show, targets
from tests.benchmarks.servers import HAS_TRITON, InProcess, Server, behind_edge, echo, ours, triton
from tests.support.paths import ROOT, SHARED

ALL_LOADS = (Load(1, 1), Load(8, 1), Load(32, 1), Load(128, 1), Load(4, 8), Load(4, 32))
LOADS = {MNIST: ALL_LOADS, CIFAR: ALL_LOADS, RESNET: (Load(1, 1), IN_FLIGHT_8, IN_FLIGHT_32)}
# Rates of the open loop, as shares of the closed loop's throughput at 32 in flight.
OPEN_LOOP_SHARES = (0.25, 0.5, 0.7, 0.8, 0.9, 1.0, 1.1, 1.25)


def measure(model: str, repository: Path, rounds: int, seconds: float) -> Record:
    """Measure all servers of a model, in turn."""
    facts: dict[str, float] = {}
    alone = InProcess(graph_of(repository, model), SHAPES[model])
    runs: Runs = {load: {} for load in LOADS[model]}
    with ExitStack() as stack:
        servers = {"native": stack.enter_context(ours(repository, model, "native", facts))}
        if model == MNIST:
            servers["aio"] = stack.enter_context(ours(repository, model, "aio", facts))
            folder = Path(stack.enter_context(TemporaryDirectory()))
            for name, tls in (("edge", False), ("edge TLS", True)):
                (folder / name).mkdir()
                servers[name] = stack.enter_context(behind_edge(repository, model, folder / name, tls=tls))
            servers["echo"] = stack.enter_context(echo(model, servers["native"]))
        if HAS_TRITON and HAS_PERF_ANALYZER:
            servers["triton"] = stack.enter_context(triton(repository, model))
        for server in servers.values():
            generate(server.address, model, IN_FLIGHT_8, 1.0, server.ca)  # warm-up
        for number in range(1, rounds + 1):
            for load in LOADS[model]:
                for name, server in servers.items():
                    if name == "echo" and load.images > 1:
                        continue
                    _progress(f"{model}  round {number}/{rounds}  {load!s:8} {name}")
                    run = _run(name, server, load, seconds, alone)
                    runs[load].setdefault(name, []).append(run)
        record = Record(runs, facts=facts)
        if model == MNIST and HAS_PERF_ANALYZER:
            capacity = median(run.result.throughput for run in runs[IN_FLIGHT_32]["native"])
            for share in OPEN_LOOP_SHARES:
                _progress(f"{model}  open loop at {share:.0%} of {capacity:,.0f}/s")
                load = Load(0, 1, rate=share * capacity)
                record.sweep.append((load.rate, generate(servers["native"].address, model, load, seconds)))
    return record


def _run(name: str, server: Server, load: Load, seconds: float, alone: InProcess) -> Run:
    before = server.usage()
    result = generate(server.address, server.model, load, seconds, server.ca)
    usage = server.usage().since(before)
    return Run(result, usage, alone.seconds_for(usage.batches) if name == "native" else 0.0)


def _progress(text: str) -> None:
    print(f"\r{text:72}", end="", file=sys.stderr, flush=True)


def machine() -> dict[str, object]:
    """The machine, the package versions and the commit of this run."""
    information = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    name_line = re.search(r"model name\s*: (.*)", information)
    runtime = "onnxruntime-gpu" if sys.platform == "linux" and platform.machine() == "x86_64" else "onnxruntime"
    commit = subprocess.run(
        ["/usr/bin/env", "git", "describe", "--always", "--dirty"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    packages = ("simplecnn", "grpcio", "numpy", "protobuf", "pygrpc-native", runtime)
    return {
        "processor": name_line[1] if name_line else platform.processor(),
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in packages},
        "commit": commit,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repository", type=Path, default=ROOT / "models", help="repository with mnist-simplecnn")
    parser.add_argument("--models", nargs="+", choices=list(LOADS), default=list(LOADS), help="default: all")
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each load (%(default)s)")
    parser.add_argument(
        "--seconds",
        type=float,
        default=1.0,
        help="duration of a window; perf_analyzer measures 3 or more (%(default)s)",
    )
    parser.add_argument("--json", type=Path, default=ROOT / "build/bench.json", help="file for all results")
    arguments = parser.parse_args()
    if not (arguments.repository / MNIST).is_dir():
        sys.exit(f"no {MNIST} in {arguments.repository}: run `make demo` or `make train` first")
    about = machine()
    records = {}
    for model in arguments.models:
        repository = repository_with(model, arguments.repository, ROOT / "build/bench")
        records[model] = measure(model, repository, arguments.rounds, arguments.seconds)
    print(f"\n\n{about['cores']} cores of {about['processor']}, commit {about['commit']}, {arguments.rounds} rounds")
    if not (HAS_TRITON and HAS_PERF_ANALYZER):
        print(f"Triton was not measured: {SHARED / 'bench' / 'setup'} installs it and perf_analyzer")
    for model, record in records.items():
        show(model, record)
    print("\ntargets")
    for target in targets(records):
        print(target)
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    results = {
        model: {
            "runs": {
                str(load): {name: [asdict(run) for run in runs] for name, runs in by_server.items()}
                for load, by_server in record.runs.items()
            },
            "open loop": [{"rate": rate, **asdict(result)} for rate, result in record.sweep],
            "facts": record.facts,
        }
        for model, record in records.items()
    }
    arguments.json.write_text(json.dumps({"about": about, "results": results}, indent=2) + "\n")
    print(f"\nall results: {arguments.json}")


if __name__ == "__main__":
    main()
