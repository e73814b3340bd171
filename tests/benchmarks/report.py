"""What the figures come to: tables, ratios, and the bars that were set."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median

from tests.benchmarks.load import EIGHT, THIRTY_TWO, Load, Result
from tests.benchmarks.models import MNIST, RESNET
from tests.benchmarks.servers import Spent


@dataclass(frozen=True)
class Run:
    """One load on one server: what the callers saw, what the server spent, and what its batches cost alone."""

    result: Result
    spent: Spent
    alone: float  # seconds that ONNX Runtime alone takes for the batches that were formed; 0 where not measured

    @property
    def cpu(self) -> float:
        """The server's processor time a request, in microseconds."""
        return 1e6 * self.spent.cpu_seconds / max(self.spent.requests, 1)

    @property
    def rows(self) -> int:
        """Images computed."""
        return sum(rows * count for rows, count in self.spent.batches.items())


Runs = dict[Load, dict[str, list[Run]]]


@dataclass
class Record:
    """All that was measured of one model."""

    runs: Runs
    sweep: list[tuple[float, Result]] = field(default_factory=list)
    facts: dict[str, float] = field(default_factory=dict)


def show(model: str, record: Record) -> None:
    """The tables: medians, and ratios to Triton, to ONNX Runtime alone and to the echo where they ran."""
    print(f"\n{model}")
    heads = (("img/s", 9), ("p50 ms", 9), ("p99 ms", 9), ("CPU µs", 8), ("/triton", 9), ("/alone", 8), ("/echo", 7))
    print(f"{'load':9}{'server':8}" + "".join(f"{head:>{width}}" for head, width in heads))
    for load, by_server in record.runs.items():
        for name, runs in by_server.items():
            line = f"{load!s:9}{name:8}{_of(runs, throughput):9,.0f}{_of(runs, p50):9.2f}{_of(runs, p99):9.2f}"
            line += f"{_of(runs, lambda run: run.cpu):8.0f}"
            line += _column(ratio(by_server, name, "triton", throughput), 9)
            line += _column(_of(runs, lambda run: throughput(run) * run.alone / run.rows) if runs[0].alone else None, 8)
            line += _column(ratio(by_server, name, "echo", throughput), 7)
            print(line)
    for rate, result in record.sweep:
        latency = f"p50 {result.p50:7.2f}  p99 {result.p99:8.2f} ms"
        print(f"open loop {rate:8,.0f}/s: answered {result.throughput:8,.0f}/s  {latency}")
    for fact, value in record.facts.items():
        print(f"{fact}: {value:.2f}")


@dataclass(frozen=True)
class Bar:
    """Something that was promised."""

    what: str
    measured: float | None  # None where it could not be
    bound: float
    at_least: bool  # else at most

    def __str__(self) -> str:
        assert self.measured is not None
        met = self.measured >= self.bound if self.at_least else self.measured <= self.bound
        sign = "≥" if self.at_least else "≤"
        return f"{'met' if met else 'MISSED':8}{self.what:46}{self.measured:8.2f}   {sign} {self.bound:g}"


def bars(records: dict[str, Record]) -> list[Bar]:
    """Everything that was promised and was measured."""
    found: list[Bar] = []
    if MNIST in records:
        record = records[MNIST]
        runs, native = record.runs, record.runs[THIRTY_TWO]["native"]
        for load, bound in ((EIGHT, 2.0), (THIRTY_TWO, 2.0), (Load(4, 8), 1.6), (Load(4, 32), 1.3)):
            measured = ratio(runs[load], "native", "triton", throughput)
            found.append(Bar(f"throughput {load}, native / Triton", measured, bound, at_least=True))
        alone = ratio(runs[Load(1, 1)], "native", "triton", p50)
        found.append(Bar("p50 1 × 1, native / Triton", alone, 0.6, at_least=False))
        tail = ratio(runs[THIRTY_TWO], "native", "triton", p99)
        found.append(Bar("p99 32 × 1, native / Triton", tail, 0.6, at_least=False))
        cpu = _of(native, lambda run: run.cpu / (1e6 * run.alone / run.rows))
        found.append(Bar("CPU a request 32 × 1 / ONNX Runtime's own", cpu, 1.6, at_least=False))
        for load in (EIGHT, THIRTY_TWO, Load(4, 8), Load(4, 32)):
            measured = ratio(runs[load], "aio", "triton", throughput)
            found.append(Bar(f"throughput {load}, grpcio / Triton", measured, 0.8, at_least=True))
        found.append(Bar("start to ready, s", record.facts["native: start to ready, s"], 1.0, at_least=False))
        memory = record.facts["native: resident memory after the load, MiB"] * 2**20 / 1e6
        found.append(Bar("resident memory, MB", memory, 150, at_least=False))
    if RESNET in records:
        measured = ratio(records[RESNET].runs[EIGHT], "native", "triton", throughput)
        found.append(Bar("resnet18 throughput 8 × 1, native / Triton", measured, 1.0, at_least=True))
    return [bar for bar in found if bar.measured is not None]


def ratio(by_server: dict[str, list[Run]], one: str, other: str, of: Callable[[Run], float]) -> float | None:
    """Median of each round's ratio; None where one of the two did not run."""
    if one == other or not by_server.get(one) or not by_server.get(other):
        return None
    return median(of(a) / of(b) for a, b in zip(by_server[one], by_server[other], strict=True))


def throughput(run: Run) -> float:
    """Images a second."""
    return run.result.throughput


def p50(run: Run) -> float:
    """In milliseconds."""
    return run.result.p50


def p99(run: Run) -> float:
    """In milliseconds."""
    return run.result.p99


def _of(runs: Sequence[Run], what: Callable[[Run], float]) -> float:
    return median(what(run) for run in runs)


def _column(value: float | None, width: int) -> str:
    return " " * width if value is None else f"{value:{width}.2f}"
