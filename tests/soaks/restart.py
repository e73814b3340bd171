"""Rolling restarts of two replicas on one port, under load.

Clients of the aio server do not retry; clients of the native server have the retry policy of service/client. No call
may fail, and every response that a server sent must reach its client.
"""

import argparse
import signal
import socket
import sys
import time
from pathlib import Path

from tests.soaks.load import ConstantLoad, report
from tests.support.processes import ServiceProcess

REPLICAS, CLIENTS = 2, 16


def main() -> int:
    """Run the soak on the given gRPC servers; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.soaks.restart", description=__doc__)
    parser.add_argument("--repository", type=Path, default=Path("models"), help="repository with mnist-simplecnn")
    parser.add_argument("--grpc-server", choices=("native", "aio"), action="append", help="repeatable; default: both")
    parser.add_argument("--restarts", type=int, default=10, help="rolling restarts of all replicas (%(default)s)")
    options = parser.parse_args()
    return max(
        restart(options.repository, grpc_server, options.restarts)
        for grpc_server in options.grpc_server or ("aio", "native")
    )


def restart(repository: Path, grpc_server: str, restarts: int) -> int:
    """Run the soak on one gRPC server; the exit status."""
    with socket.create_server(("127.0.0.1", 0), reuse_port=True) as holder:  # keeps the port reserved
        port = holder.getsockname()[1]
        flags = ["--grpc-server", grpc_server, "--reuse-port", "--grpc-port", str(port), "--lame-duck-seconds", "1"]
        flags += ["--max-connection-age-seconds", "1", "--device", "cpu"]
        first = [ServiceProcess(repository, *flags) for _ in range(REPLICAS)]
    replicas, answered, statuses = first, 0, set()
    started = time.perf_counter()
    with ConstantLoad(f"127.0.0.1:{port}", CLIENTS, retry=grpc_server == "native") as load:
        time.sleep(1)
        for number in range(restarts * REPLICAS):
            leaving, replicas = replicas[0], replicas[1:]
            statuses.add(leaving.stop(signal.SIGTERM))
            answered += leaving.event("stopped")["answered"]
            replicas.append(ServiceProcess(repository, *flags))
            if sys.stderr.isatty():
                print(
                    f"\r{grpc_server} server: {number + 1} of {restarts * REPLICAS} replicas restarted",
                    end="",
                    file=sys.stderr,
                )
            time.sleep(0.5)
    seconds = time.perf_counter() - started
    for replica in replicas:
        statuses.add(replica.stop(signal.SIGTERM))
        answered += replica.event("stopped")["answered"]
    outcome = load.outcome
    for text, count in outcome.texts.most_common(5):
        print(f"  {count} × {text}")
    print(f"\n{grpc_server} server: {restarts} restarts of {REPLICAS} replicas in {seconds:.0f} s, {CLIENTS} clients")
    return report(
        grpc_server,
        {
            "calls": (f"{outcome.count() + outcome.failed:,}", outcome.count() > 1000),
            "failed": (str(outcome.failed), outcome.failed == 0),
            "responses sent − received": (str(answered - outcome.count()), answered == outcome.count()),
            "p50, p99, maximum (ms)": (
                f"{outcome.percentile(50):.1f}, {outcome.percentile(99):.1f}, {outcome.percentile(100):.0f}",
                True,
            ),
            "exit statuses": (str(sorted(statuses)), statuses == {0}),
        },
    )


if __name__ == "__main__":
    sys.exit(main())
