"""Attack a gRPC port under a constant load, and print one Markdown table: attack, outcome, peak memory.

Without `--address` the target is a service process of its own with `--grpc-server aio` and a limit on its memory, where
this program may set one; it has a tokens file, and calls have a valid token except those of no-token and wrong-tokens.
With it, the target is whatever listens there, such as a Compose stack, of which `--container` names the containers.
After each attack a normal call must take its usual time; no call of the load may fail, nor its stream end, and nothing
may be restarted.
"""

import argparse
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import grpc

from tests.soaks.attacks.catalogue import ATTACKS, TOKENLESS, run, tokens_checked
from tests.soaks.attacks.load import MODEL, Load, name_of, open_channel, timed_call
from tests.soaks.attacks.target import Containers, Process, Seen
from tests.soaks.attacks.wire import Address
from tests.support.tokens import CALLER, token_line

COLUMNS = (
    "attack",
    "its calls or connections ended with",
    "call after / before (ms), usual after (s)",
    "load: failed, slowest (ms)",
    "peak memory (MiB)",
    "log lines",
)
BEFORE, AFTER, TRIES = 200, 50, 10
REST = 1.0  # seconds before each try: the service works off what the sockets still hold
MEMORY_SHARE = 0.9  # of the limit, that the highest memory stays below
MIB = 2**20
ANY_ADDRESS = "0.0.0.0"  # noqa: S104 # the limits of an address that strangers reach


def main() -> int:
    """Attack as the command line says; exit status 0 if every attack passed."""
    parser = argparse.ArgumentParser(prog="python -m tests.soaks.attacks", description=__doc__)
    parser.add_argument("--repository", type=Path, default=Path("models"), help=f"repository with {MODEL}")
    parser.add_argument("--attack", choices=ATTACKS, action="append", help="repeatable; default: all")
    parser.add_argument("--service-flag", action="append", default=[], help="flag of the service process; repeatable")
    parser.add_argument("--memory-mib", type=int, default=1024, help="limit of the service process (%(default)s)")
    parser.add_argument("--address", help="host:port of what runs already")
    parser.add_argument("--container", action="append", default=[], help="a container behind the address; repeatable")
    parser.add_argument("--token", default="", help="a valid token, if the target has a tokens file")
    parser.add_argument("--ca", default="", help="file of the CA of the target's certificate, if the port has TLS")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        tokens = Path(folder) / "tokens"
        tokens.write_text(token_line(CALLER, "infer"))
        return _attack(options, tokens)


def _attack(options: argparse.Namespace, tokens: Path) -> int:
    flags = [
        "--tokens-file",
        str(tokens),
        "--grpc-server",
        "aio",
        "--device",
        "cpu",
        "--host",
        ANY_ADDRESS,
        "--insecure",
        *options.service_flag,
    ]
    process = None if options.address else Process(options.repository, flags, options.memory_mib * MIB)
    token = CALLER if process else options.token
    target = process or Containers(options.container)
    print(f"| {' | '.join(COLUMNS)} | |\n|{'---|' * (len(COLUMNS) + 1)}")
    passed = True
    for name in options.attack or ATTACKS:
        watch = target.watch()
        host, port = (process.address if process else options.address).rsplit(":", 1)
        address = Address(host, int(port), f"Bearer {token}" if token else "", options.ca)
        result = _run(name, address)
        passed &= _report(name, result, watch.stop(), refuses=bool(token), behind_edge=process is None)
    if process:
        process.stop()
    return 0 if passed else 1


class Result:
    """The outcome of an attack, the times in seconds of calls before and after, and when those were as usual."""

    def __init__(
        self, outcome: Counter[str], before: list[float], after: list[float], settled: float, load: Load
    ) -> None:
        self.outcome, self.before, self.after, self.settled, self.load = outcome, before, after, settled, load


def _run(name: str, address: Address) -> Result:
    with open_channel(address) as channel:
        before = [timed_call(channel, address) for _ in range(BEFORE)]
    # In a process of its own: the load must not wait for the attack's.
    with Load(address) as load, ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        outcome = pool.submit(run, name, address).result()
    after: list[float] = []
    ended = time.monotonic()
    for _ in range(TRIES):
        time.sleep(REST)
        try:
            with open_channel(address) as channel:
                after = [timed_call(channel, address) for _ in range(AFTER)]
        except grpc.RpcError as error:
            load.failures[f"after: {name_of(error)}"] += 1
        if after and _usual(before, after):
            break
    return Result(outcome, before, after, time.monotonic() - ended, load)


def _report(name: str, result: Result, seen: Seen, *, refuses: bool, behind_edge: bool) -> bool:
    """Print a row; whether the attack did no harm. `refuses` says that the target checks tokens."""
    before, after = (statistics.median(times or [float("nan")]) for times in (result.before, result.after))
    load = result.load
    harmed = [
        what
        for what, harm in (
            ("slow after", not (result.after and _usual(result.before, result.after))),
            ("calls lost", bool(load.failures)),
            ("restarted", seen.restarts > 0),
            ("memory", any(limit and seen.peaks[part] >= MEMORY_SHARE * limit for part, limit in seen.limits.items())),
            (
                "tokens not checked",
                refuses and name in TOKENLESS and not tokens_checked(result.outcome, behind_edge=behind_edge),
            ),
        )
        if harm
    ]
    outcome = ", ".join(f"{count:,} × {end}" for end, count in result.outcome.most_common(3))
    failed = f"{sum(load.failures.values())} of {load.calls}" + "".join(f", {text}" for text in list(load.failures)[:1])
    peaks = ", ".join(f"{part} {peak / MIB:.0f} of {seen.limits[part] / MIB:.0f}" for part, peak in seen.peaks.items())
    calls = f"{1e3 * after:.1f} / {1e3 * before:.1f}, {result.settled:.0f}"
    cells = (name, outcome, calls, f"{failed}; {1e3 * load.slowest:.0f}", peaks, seen.lines, ", ".join(harmed) or "ok")
    print(f"| {' | '.join(map(str, cells))} |", flush=True)
    return not harmed


def _usual(before: list[float], after: list[float]) -> bool:
    """Whether the median call after takes no longer than twice the median before, or than 98 % of those."""
    return statistics.median(after) <= max(2 * statistics.median(before), sorted(before)[-BEFORE // 50])


if __name__ == "__main__":
    sys.exit(main())
