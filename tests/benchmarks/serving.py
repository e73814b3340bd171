"""The service beside Triton, ONNX Runtime alone and a bare echo, all in this run: `make bench`.

`python -m tests.benchmarks.serving [--rounds 5] [--seconds 1] [--models …] [--json FILE]`

Of each model the servers run at the same time and are loaded in turn, round by round; a figure is the median of the
rounds, a ratio the median of each round's ratio. What is shown, and what was learned: tests/benchmarks/README.md.
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

from tests.benchmarks.load import EIGHT, HAS_PERF_ANALYZER, THIRTY_TWO, Load, generate
from tests.benchmarks.models import CIFAR, MNIST, RESNET, SHAPES, graph_of, repository_with
from tests.benchmarks.report import Record, Run, Runs, bars, show
from tests.benchmarks.servers import HAS_TRITON, InProcess, Server, echo, ours, triton
from tests.support.paths import ROOT, SHARED

ALL = (Load(1, 1), Load(8, 1), Load(32, 1), Load(128, 1), Load(4, 8), Load(4, 32))
LOADS = {MNIST: ALL, CIFAR: ALL, RESNET: (Load(1, 1), EIGHT, THIRTY_TWO)}
# Of the closed loop's throughput at 32 in flight.
SWEEP = (0.25, 0.5, 0.7, 0.8, 0.9, 1.0, 1.1, 1.25)


def measure(model: str, repository: Path, rounds: int, seconds: float) -> Record:
    """Load every server of a model in turn."""
    facts: dict[str, float] = {}
    alone = InProcess(graph_of(repository, model), SHAPES[model])
    runs: Runs = {load: {} for load in LOADS[model]}
    with ExitStack() as stack:
        servers = {"native": stack.enter_context(ours(repository, model, "native", facts))}
        if model == MNIST:
            servers["aio"] = stack.enter_context(ours(repository, model, "aio", facts))
            servers["echo"] = stack.enter_context(echo(model, servers["native"]))
        if HAS_TRITON and HAS_PERF_ANALYZER:
            servers["triton"] = stack.enter_context(triton(repository, model))
        for server in servers.values():
            generate(server.address, model, EIGHT, 1.0)  # warm
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
            knee = median(run.result.throughput for run in runs[THIRTY_TWO]["native"])
            for share in SWEEP:
                _progress(f"{model}  open loop at {share:.0%} of {knee:,.0f}/s")
                load = Load(0, 1, rate=share * knee)
                record.sweep.append((load.rate, generate(servers["native"].address, model, load, seconds)))
    return record


def _run(name: str, server: Server, load: Load, seconds: float, alone: InProcess) -> Run:
    before = server.spent()
    result = generate(server.address, server.model, load, seconds)
    spent = server.spent().since(before)
    return Run(result, spent, alone.seconds_for(spent.batches) if name == "native" else 0.0)


def _progress(text: str) -> None:
    print(f"\r{text:72}", end="", file=sys.stderr, flush=True)


def machine() -> dict[str, object]:
    """What it was measured on, and with which versions and commit."""
    information = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    named = re.search(r"model name\s*: (.*)", information)
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
        "processor": named[1] if named else platform.processor(),
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in packages},
        "commit": commit,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repository", type=Path, default=ROOT / "models", help="where mnist-simplecnn was published")
    parser.add_argument("--models", nargs="+", choices=list(LOADS), default=list(LOADS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--seconds", type=float, default=1.0, help="of each of perf_analyzer's windows, of which it takes 3 or more"
    )
    parser.add_argument("--json", type=Path, default=ROOT / "build/bench.json", help="where to write all results")
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
    print("\nbars")
    for bar in bars(records):
        print(bar)
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
    print(f"\nall of it: {arguments.json}")


if __name__ == "__main__":
    main()
