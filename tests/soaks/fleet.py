"""What an operator does to the Compose stack, under load, and the calls that it loses: `make soak-fleet`.

Three replicas behind the edge with TLS, in real containers. Half of the clients retry as service/client does, the
others never. Each event is one row: the calls that failed and all calls, without and with retries.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import grpc

from tests.soaks.load import ConstantLoad, once_ready
from tests.support.certificates import Authority, tls_folder
from tests.support.containers import Stack, built_images, call, changed_image, docker, readable_copy, upgrade
from tests.support.edge import change_livez
from tests.support.paths import ROOT

REPLICAS, CLIENTS, RATE = 3, 4, 100.0
# Events that stop every process that could answer before the next one is ready: `make upgrade` is there for the first
# two; one process owns the published port.
LOSSY = ("docker compose up -d", "one replica: docker compose up -d", "edge: docker compose up -d")


def main() -> int:
    """Run every event once; exit status 1 if one lost a call that it should not."""
    parser = argparse.ArgumentParser(prog="python -m tests.soaks.fleet", description=__doc__)
    parser.add_argument("--repository", type=Path, default=Path("models"), help="repository with mnist-simplecnn")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        authority = Authority(folder / "authority")
        tls = tls_folder(folder / "tls", authority)
        edge = readable_copy(ROOT / "deploy/edge", folder / "edge")
        models = readable_copy(options.repository, folder / "models")
        stack = Stack(models, TLS_FOLDER=str(tls), EDGE_FOLDER=str(edge), **built_images())
        try:
            return run(stack, authority, folder)
        finally:
            stack.down()


def run(stack: Stack, authority: Authority, folder: Path) -> int:
    """Every event once, each on a stack that is healthy; the exit status."""
    credentials = grpc.ssl_channel_credentials(authority.ca.read_bytes())

    def ready(replicas: int = REPLICAS) -> None:
        stack.up("--scale", f"service={replicas}", "service", "edge")
        call(stack.address, credentials=credentials, wait=True)
        time.sleep(2)  # the edge asks each replica once a second

    def renew() -> None:
        for path in tls_folder(folder / "renewed", authority).iterdir():
            path.rename(folder / "tls" / path.name)
        once_ready(lambda: '"event": "certificate reloaded"' in stack.log("edge"), "the certificate was reloaded")

    def reload() -> None:
        change_livez(Path(stack.variables["EDGE_FOLDER"]))
        stack.compose("kill", "-s", "HUP", "edge")
        once_ready(lambda: '"event": "configuration reloaded"' in stack.log("edge"), "the edge reloaded")
        time.sleep(6)  # Envoy closes the connections of the old one after 5 s

    def scale() -> None:
        for replicas in (1, REPLICAS):
            stack.up("--no-recreate", "--scale", f"service={replicas}", "service")

    def start(service: str, replicas: int) -> Callable[[], object]:
        changed = changed_image(stack.variables[f"{service.upper()}_IMAGE"], folder)
        flags = ("--scale", f"service={replicas}") if service == "service" else ()
        return lambda: stack.up(*flags, service, **{f"{service.upper()}_IMAGE": changed})

    events: list[tuple[str, int, Callable[[], object]]] = [
        ("docker stop", REPLICAS, lambda: docker("stop", stack.containers()[0])),
        ("docker kill", REPLICAS, lambda: docker("kill", stack.containers()[0])),
        (f"scale {REPLICAS}, 1, {REPLICAS}", REPLICAS, scale),
        ("make upgrade", REPLICAS, lambda: upgrade(stack, changed_image(stack.variables["SERVICE_IMAGE"], folder))),
        ("docker compose up -d", REPLICAS, start("service", REPLICAS)),
        (
            "one replica: make upgrade",
            1,
            lambda: upgrade(stack, changed_image(stack.variables["SERVICE_IMAGE"], folder)),
        ),
        ("one replica: docker compose up -d", 1, start("service", 1)),
        ("edge: reload", REPLICAS, reload),
        ("edge: docker compose up -d", REPLICAS, start("edge", REPLICAS)),
        ("edge: certificate changes", REPLICAS, renew),
    ]
    status = 0
    print(f"  {'event':36} {'seconds':>7} {'lost of calls without retries':>30} {'with retries':>14}")
    for name, replicas, event in events:
        ready(replicas)
        plain = ConstantLoad(stack.address, CLIENTS, rate=RATE, credentials=credentials)
        retrying = ConstantLoad(stack.address, CLIENTS, rate=RATE, credentials=credentials, retry=True)
        with plain, retrying:
            time.sleep(1)
            began = time.perf_counter()
            event()
            seconds = time.perf_counter() - began
            time.sleep(2)
        lost = [
            f"{load.outcome.failed:,} of {load.outcome.count() + load.outcome.failed:,}" for load in (plain, retrying)
        ]
        print(f"  {name:36} {seconds:7.1f} {lost[0]:>30} {lost[1]:>14}", flush=True)
        for text, count in (plain.outcome.texts + retrying.outcome.texts).most_common(3):
            print(f"    {count} × {text[:150]}")
        status |= name not in LOSSY and plain.outcome.failed + retrying.outcome.failed > 0
    return status


if __name__ == "__main__":
    sys.exit(main())
