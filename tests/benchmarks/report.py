"""Evaluates the measurements: tables, ratios, and the performance targets."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median

from tests.benchmarks.load import IN_FLIGHT_8, IN_FLIGHT_32, Load, Result
from tests.benchmarks.models import MNIST, RESNET
from tests.benchmarks.servers import Usage


@dataclass(frozen=True)
class Run:
    """One load on one server: the client's measurements, the server's usage, and the time of its batches alone."""

    result: Result
    usage: Usage
    alone: float  # seconds that ONNX Runtime alone takes for the same batches; 0 if not measured

    @property
    def cpu(self) -> float:
        """The server's CPU time per request, in microseconds."""
        return 1e6 * self.usage.cpu_seconds / max(self.usage.requests, 1)

    @property
    def rows(self) -> int:
        """Number of images computed."""
        return sum(rows * count for rows, count in self.usage.batches.items())


Runs = dict[Load, dict[str, list[Run]]]


@dataclass
class Record:
    """All measurements of one model."""

    runs: Runs
    sweep: list[tuple[float, Result]] = field(default_factory=list)
    facts: dict[str, float] = field(default_factory=dict)


def show(model: str, record: Record) -> None:
    """Print the table: medians, and ratios to Triton, to ONNX Runtime alone and to the echo if they ran."""
    print(f"\n{model}")
    heads = (("img/s", 9), ("p50 ms", 9), ("p99 ms", 9), ("CPU µs", 8), ("/Triton", 9), ("/alone", 8), ("/echo", 7))
    print(f"{'load':9}{'server':9}" + "".join(f"{head:>{width}}" for head, width in heads))
    for load, by_server in record.runs.items():
        for name, runs in by_server.items():
            line = (
                f"{load!s:9}{name:9}{_median(runs, throughput):9,.0f}{_median(runs, p50):9.2f}{_median(runs, p99):9.2f}"
            )
            line += f"{_median(runs, lambda run: run.cpu):8.0f}"
            line += _column(ratio(by_server, name, "triton", throughput), 9)
            line += _column(
                _median(runs, lambda run: throughput(run) * run.alone / run.rows) if runs[0].alone else None, 8
            )
            line += _column(ratio(by_server, name, "echo", throughput), 7)
            print(line)
    for rate, result in record.sweep:
        latency = f"p50 {result.p50:7.2f}  p99 {result.p99:8.2f} ms"
        print(f"open loop {rate:8,.0f}/s: answered {result.throughput:8,.0f}/s  {latency}")
    for fact, value in record.facts.items():
        print(f"{fact}: {value:.2f}")


@dataclass(frozen=True)
class Target:
    """A performance target and its measurement."""

    name: str
    measured: float | None  # None if not measured
    bound: float
    at_least: bool  # whether `bound` is a minimum; else a maximum

    def __str__(self) -> str:
        assert self.measured is not None
        met = self.measured >= self.bound if self.at_least else self.measured <= self.bound
        sign = "≥" if self.at_least else "≤"
        return f"{'met' if met else 'MISSED':8}{self.name:46}{self.measured:8.2f}   {sign} {self.bound:g}"


def targets(records: dict[str, Record]) -> list[Target]:
    """All targets that were measured."""
    results: list[Target] = []
    if MNIST in records:
        record = records[MNIST]
        runs, native = record.runs, record.runs[IN_FLIGHT_32]["native"]
        for load, bound in ((IN_FLIGHT_8, 2.0), (IN_FLIGHT_32, 2.0), (Load(4, 8), 1.6), (Load(4, 32), 1.3)):
            measured = ratio(runs[load], "native", "triton", throughput)
            results.append(Target(f"throughput {load}, native / Triton", measured, bound, at_least=True))
        alone = ratio(runs[Load(1, 1)], "native", "triton", p50)
        results.append(Target("p50 1 × 1, native / Triton", alone, 0.6, at_least=False))
        tail = ratio(runs[IN_FLIGHT_32], "native", "triton", p99)
        results.append(Target("p99 32 × 1, native / Triton", tail, 0.6, at_least=False))
        work = _median(native, lambda run: run.cpu / (1e6 * run.alone / run.rows))
        results.append(Target("CPU per request 32 × 1 / ONNX Runtime alone", work, 1.6, at_least=False))
        for load in (IN_FLIGHT_8, IN_FLIGHT_32):
            measured = ratio(runs[load], "native", "triton", cpu)
            results.append(Target(f"CPU per request {load}, native / Triton", measured, 0.6, at_least=False))
        for name in ("edge", "edge TLS"):
            measured = ratio(runs[IN_FLIGHT_32], name, "triton", cpu)
            results.append(Target(f"CPU per request 32 × 1, {name} / Triton", measured, 1.1, at_least=False))
            measured = ratio(runs[Load(4, 8)], name, "triton", throughput)
            results.append(Target(f"throughput 4 × 8, {name} / Triton", measured, 1.0, at_least=True))
        for load in (IN_FLIGHT_8, IN_FLIGHT_32, Load(4, 8), Load(4, 32)):
            measured = ratio(runs[load], "aio", "triton", throughput)
            results.append(Target(f"throughput {load}, aio / Triton", measured, 0.8, at_least=True))
        results.append(Target("start to ready, s", record.facts["native: start to ready, s"], 1.0, at_least=False))
        memory = record.facts["native: resident memory after the load, MiB"] * 2**20 / 1e6
        results.append(Target("resident memory, MB", memory, 150, at_least=False))
    if RESNET in records:
        measured = ratio(records[RESNET].runs[IN_FLIGHT_8], "native", "triton", throughput)
        results.append(Target("resnet18 throughput 8 × 1, native / Triton", measured, 1.0, at_least=True))
    return [target for target in results if target.measured is not None]


def ratio(by_server: dict[str, list[Run]], name: str, base: str, metric: Callable[[Run], float]) -> float | None:
    """Median over the rounds of the ratio `name` / `base`; None if either did not run."""
    if name == base or not by_server.get(name) or not by_server.get(base):
        return None
    return median(
        metric(run) / metric(base_run) for run, base_run in zip(by_server[name], by_server[base], strict=True)
    )


def throughput(run: Run) -> float:
    """Images per second."""
    return run.result.throughput


def cpu(run: Run) -> float:
    """CPU time of the server's processes for a request, in microseconds."""
    return run.cpu


def p50(run: Run) -> float:
    """Latency in milliseconds."""
    return run.result.p50


def p99(run: Run) -> float:
    """Latency in milliseconds."""
    return run.result.p99


def _median(runs: Sequence[Run], metric: Callable[[Run], float]) -> float:
    return median(metric(run) for run in runs)


def _column(value: float | None, width: int) -> str:
    return " " * width if value is None else f"{value:{width}.2f}"
