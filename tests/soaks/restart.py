"""Rolling restarts of two replicas on one port, under load.

On the grpcio front clients do not retry, on the native front they have the standard retry policy of service/client.py.
Either way no call may fail, and every answer that a server gave must have arrived.
"""

import argparse
import signal
import socket
import sys
import time
from pathlib import Path

from tests.soaks.load import ConstantLoad, report
from tests.support import ServiceProcess

REPLICAS, CLIENTS = 2, 16


def main() -> int:
    """Run on one front, or both."""
    parser = argparse.ArgumentParser(prog="python -m tests.soaks.restart", description=__doc__)
    parser.add_argument("--repository", type=Path, default=Path("models"))
    parser.add_argument("--front", choices=("native", "grpcio"), action="append")
    parser.add_argument("--restarts", type=int, default=10, help="each of all replicas, one after the other")
    options = parser.parse_args()
    return max(restart(options.repository, front, options.restarts) for front in options.front or ("grpcio", "native"))


def restart(repository: Path, front: str, restarts: int) -> int:
    """The exit status."""
    with socket.create_server(("127.0.0.1", 0), reuse_port=True) as holder:  # a port that nobody else takes meanwhile
        port = holder.getsockname()[1]
        flags = ["--front", front, "--reuse-port", "--grpc-port", str(port), "--drain-seconds", "1"]
        flags += ["--connection-seconds", "1", "--device", "cpu"]
        first = [ServiceProcess(repository, *flags) for _ in range(REPLICAS)]
    replicas, answered, statuses = first, 0, set()
    started = time.perf_counter()
    with ConstantLoad(f"127.0.0.1:{port}", CLIENTS, retry=front == "native") as load:
        time.sleep(1)
        for number in range(restarts * REPLICAS):
            leaving, replicas = replicas[0], replicas[1:]
            statuses.add(leaving.stop(signal.SIGTERM))
            answered += leaving.event("stopped")["answered"]
            replicas.append(ServiceProcess(repository, *flags))
            if sys.stderr.isatty():
                print(f"\r{front}: {number + 1} of {restarts * REPLICAS} replicas restarted", end="", file=sys.stderr)
            time.sleep(0.5)
    seconds = time.perf_counter() - started
    for replica in replicas:
        statuses.add(replica.stop(signal.SIGTERM))
        answered += replica.event("stopped")["answered"]
    outcome = load.outcome
    for text, count in outcome.texts.most_common(5):
        print(f"  {count} × {text}")
    print(f"\n{front}: {restarts} rolling restarts of {REPLICAS} replicas in {seconds:.0f} s, {CLIENTS} clients")
    return report(
        front,
        {
            "calls": (f"{outcome.count() + outcome.failed:,}", outcome.count() > 1000),
            "failed": (str(outcome.failed), outcome.failed == 0),
            "answers given − answers received": (str(answered - outcome.count()), answered == outcome.count()),
            "p50, p99, worst (ms)": (
                f"{outcome.percentile(50):.1f}, {outcome.percentile(99):.1f}, {outcome.percentile(100):.0f}",
                True,
            ),
            "exit statuses": (str(sorted(statuses)), statuses == {0}),
        },
    )


if __name__ == "__main__":
    sys.exit(main())
