"""Hot reloads under a constant load of mixed requests, compared with the same load without reloads.

Each reload publishes the next version, sends SIGHUP and waits until the new version is ready. Periods with and without
reloads have equal length and alternate, so that other load on the machine affects both.
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
PERIODS = 5


def main() -> int:
    """Run the soak on the given gRPC servers; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.soaks.reload", description=__doc__)
    parser.add_argument("--repository", type=Path, default=Path("models"), help="repository with mnist-simplecnn")
    parser.add_argument("--grpc-server", choices=("native", "aio"), action="append", help="repeatable; default: both")
    parser.add_argument("--reloads", type=int, default=20, help="number of reloads (%(default)s)")
    parser.add_argument("--seconds", type=float, default=2.0, help="pause after each reload (%(default)s)")
    options = parser.parse_args()
    return max(
        reload(options.repository, grpc_server, options.reloads, options.seconds)
        for grpc_server in options.grpc_server or ("native", "aio")
    )


def reload(source: Path, grpc_server: str, reloads: int, pause: float) -> int:
    """Run the soak on one gRPC server; the exit status."""
    with tempfile.TemporaryDirectory() as folder:
        repository = Path(folder) / "models"
        newest = max(int(path.name) for path in (source / MODEL).iterdir() if path.name.isdigit())
        shutil.copytree(source / MODEL / str(newest), repository / MODEL / "1")
        for path in (source / MODEL).iterdir():
            if path.is_file():
                shutil.copy(path, repository / MODEL)
        for version in range(2, reloads + 2):  # copied now, so that copying does not disturb the load
            shutil.copytree(repository / MODEL / "1", repository / MODEL / f".{version}")
        service = ServiceProcess(repository, "--grpc-server", grpc_server, "--device", "cpu")
        quiet, reloading, reload_seconds = [], [], []
        with ConstantLoad(service.address, CLIENTS, rate=RATE) as load, Client(service.address) as client:
            time.sleep(1)
            load.reset()
            version = 1
            for _ in range(PERIODS):
                started = time.perf_counter()
                for _ in range(reloads // PERIODS):
                    version += 1
                    (repository / MODEL / f".{version}").rename(repository / MODEL / str(version))
                    signalled = time.perf_counter()
                    os.kill(service.process.pid, signal.SIGHUP)
                    once_ready(lambda now=version: ready_version(client) == now, f"version {version} is ready")  # type: ignore[misc]
                    reload_seconds.append(time.perf_counter() - signalled)
                    time.sleep(pause)
                reloading.append(load.reset())
                time.sleep(time.perf_counter() - started)
                quiet.append(load.reset())
        status = service.stop()
    both = [*quiet, *reloading]
    ratio = median(r.percentile(99) / q.percentile(99) for r, q in zip(reloading, quiet, strict=True))
    for text, count in sum((outcome.texts for outcome in both), start=Outcome().texts).most_common(5):
        print(f"  {count} × {text}")
    print(f"\n{grpc_server} server: {version - 1} reloads, {CLIENTS} clients with {RATE:g} calls per second each")
    calls = sum(outcome.count() for outcome in both)
    failed = sum(outcome.failed for outcome in both)
    return report(
        grpc_server,
        {
            "calls": (f"{calls:,}", calls > 1000),
            "failed": (str(failed), failed == 0),
            "p99 without reloads (ms)": (" ".join(f"{outcome.percentile(99):.1f}" for outcome in quiet), True),
            "p99 with reloads (ms)": (" ".join(f"{outcome.percentile(99):.1f}" for outcome in reloading), True),
            "p99 with / without, median": (f"{ratio:.2f} (at most 1.5)", ratio <= 1.5),
            "SIGHUP to ready, median (s)": (f"{median(reload_seconds):.2f}", True),
            "exit status": (str(status), status == 0),
        },
    )


def ready_version(client: Client) -> int:
    """The newest version that is ready."""
    return max(int(model.version) for model in client.models() if model.state == "READY")


if __name__ == "__main__":
    sys.exit(main())
