"""Hot reloads under a constant load of mixed requests, against the same load without any.

Each reload publishes the next version, sends SIGHUP and waits until the new version answers. Quiet and reloading
stretches of equal length take turns, so that whatever else the machine does falls on both.
"""

import argparse
import os
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from service.client import Client
from tests.soaks.load import MODEL, ConstantLoad, Outcome, once_ready, report
from tests.support.processes import ServiceProcess

CLIENTS, RATE = 8, 50.0
STRETCHES = 5


def main() -> int:
    """Run on one grpc_server, or both."""
    parser = argparse.ArgumentParser(prog="python -m tests.soaks.reload", description=__doc__)
    parser.add_argument("--repository", type=Path, default=Path("models"))
    parser.add_argument("--grpc-server", choices=("native", "aio"), action="append")
    parser.add_argument("--reloads", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=2.0, help="between two reloads (%(default)s)")
    options = parser.parse_args()
    return max(
        reload(options.repository, grpc_server, options.reloads, options.seconds)
        for grpc_server in options.grpc_server or ("native", "aio")
    )


def reload(source: Path, grpc_server: str, reloads: int, pause: float) -> int:
    """The exit status."""
    with tempfile.TemporaryDirectory() as folder:
        repository = Path(folder) / "models"
        newest = max(int(path.name) for path in (source / MODEL).iterdir() if path.name.isdigit())
        shutil.copytree(source / MODEL / str(newest), repository / MODEL / "1")
        for path in (source / MODEL).iterdir():
            if path.is_file():
                shutil.copy(path, repository / MODEL)
        for version in range(2, reloads + 2):  # all before, so that the load generator has nothing else to do
            shutil.copytree(repository / MODEL / "1", repository / MODEL / f".{version}")
        service = ServiceProcess(repository, "--grpc-server", grpc_server, "--device", "cpu")
        quiet, busy, loads = [], [], []
        with ConstantLoad(service.address, CLIENTS, rate=RATE) as load, Client(service.address) as client:
            time.sleep(1)
            load.fresh()
            version = 1
            for _ in range(STRETCHES):
                started = time.perf_counter()
                for _ in range(reloads // STRETCHES):
                    version += 1
                    (repository / MODEL / f".{version}").rename(repository / MODEL / str(version))
                    begun = time.perf_counter()
                    os.kill(service.process.pid, signal.SIGHUP)
                    once_ready(lambda now=version: served(client) == now, f"version {version} answers")  # type: ignore[misc]
                    loads.append(time.perf_counter() - begun)
                    time.sleep(pause)
                busy.append(load.fresh())
                time.sleep(time.perf_counter() - started)
                quiet.append(load.fresh())
        status = service.stop()
    both = [*quiet, *busy]
    ratio = median(b.percentile(99) / q.percentile(99) for b, q in zip(busy, quiet, strict=True))
    for text, count in sum((outcome.texts for outcome in both), start=Outcome().texts).most_common(5):
        print(f"  {count} × {text}")
    print(f"\n{grpc_server}: {version - 1} reloads, {CLIENTS} clients that call {RATE:g} times a second each")
    calls = sum(outcome.count() for outcome in both)
    failed = sum(outcome.failed for outcome in both)
    return report(
        grpc_server,
        {
            "calls": (f"{calls:,}", calls > 1000),
            "failed": (str(failed), failed == 0),
            "p99 quiet (ms)": (" ".join(f"{outcome.percentile(99):.1f}" for outcome in quiet), True),
            "p99 reloading (ms)": (" ".join(f"{outcome.percentile(99):.1f}" for outcome in busy), True),
            "reloading / quiet, median": (f"{ratio:.2f} (at most 1.5)", ratio <= 1.5),
            "from SIGHUP to the new version, median (s)": (f"{median(loads):.2f}", True),
            "exit status": (str(status), status == 0),
        },
    )


def served(client: Client) -> int:
    """The newest version that is ready."""
    return max(int(model.version) for model in client.models() if model.state == "READY")


if __name__ == "__main__":
    sys.exit(main())
