"""The Compose stack in real containers: base images, a project with ports of its own, certificates.

Base images come from a registry or, if no registry can be reached, from ../shared/containers/setup.
"""

import json
import os
import shutil
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from service.pb import inference_pb2 as pb
from service.pb.inference_pb2_grpc import GRPCInferenceServiceStub
from tests.soaks.load import channel
from tests.support.paths import ROOT, SHARED
from tests.support.processes import free_port
from tests.support.requests import infer_request

MODEL = "mnist-simplecnn"
REQUEST = infer_request(MODEL, images=np.zeros((1, 28, 28, 1), np.uint8))
STAND_INS = {
    "PYTHON_IMAGE": "local/python:3.13-slim",
    "ENVOY_IMAGE": "local/envoy:distroless",
    "PROMETHEUS_IMAGE": "local/prometheus:2.53",
}
BUILT = {"SERVICE_IMAGE": "simplecnn-service:test", "EDGE_IMAGE": "simplecnn-edge:test"}


def try_docker(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a docker command in the checkout, in this environment without Compose's variables, and with these."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("COMPOSE_")}
    return subprocess.run(
        ["docker", *arguments],  # noqa: S607
        cwd=ROOT,
        env=ours | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def docker(*arguments: str, **environment: str) -> str:
    """Standard output of a docker command that must succeed."""
    done = try_docker(*arguments, **environment)
    assert done.returncode == 0, f"docker {' '.join(arguments)}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
    return done.stdout.strip()


def built_images() -> dict[str, str]:
    """Build the images of service and edge; Compose's variables that name them and their base images."""
    bases: dict[str, str] = {}
    if try_docker("info").returncode or try_docker("pull", "-q", "python:3.13-slim").returncode:
        setup = SHARED / "containers" / "setup"
        if not setup.exists():
            pytest.skip("the Docker engine is not running, or reaches no registry")
        subprocess.run([setup], check=True, capture_output=True)
        bases = STAND_INS
    docker("compose", "build", "service", "edge", **bases, **BUILT)
    return bases | BUILT


class Stack:
    """A Compose project with ports of its own; its model repository is a folder on the host.

    `variables` are those of .env.example, for all of its commands.
    """

    _number = 0

    def __init__(self, repository: Path, **variables: str) -> None:
        Stack._number += 1
        self.repository = repository
        self.name = f"simplecnn-test-{os.getpid()}-{Stack._number}"
        self.ports = {name: free_port() for name in ("GRPC_PORT", "PROMETHEUS_PORT")}
        self.address = f"127.0.0.1:{self.ports['GRPC_PORT']}"
        self.variables = {
            "COMPOSE_PROJECT_NAME": self.name,
            "COMPOSE_PROFILES": "monitoring",
            "PULL_POLICY": "never",
            "MODELS": str(repository),
            "SERVICE_REPOSITORY_POLL_SECONDS": "1",
            "SERVICE_LAME_DUCK_SECONDS": "3",
            **{name: str(port) for name, port in self.ports.items()},
            **variables,
        }

    def compose(self, *arguments: str, **variables: str) -> str:
        """Run `docker compose …` in this project; it must succeed."""
        return docker("compose", *arguments, **(self.variables | variables))

    def try_compose(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run `docker compose …` in this project."""
        return try_docker("compose", *arguments, **(self.variables | variables))

    def fails_to_start(self, service: str, **variables: str) -> str:
        """Start a service that must not become healthy; what Compose and the service said about it."""
        done = self.try_compose("up", "-d", "--no-deps", "--wait", "--wait-timeout", "10", service, **variables)
        assert done.returncode != 0, done.stdout + done.stderr
        assert not any(healthy(container) for container in self.containers(service))
        return done.stderr + self.log(service)

    def up(self, *arguments: str, **variables: str) -> None:
        """Start services without their dependencies, and wait until they are healthy."""
        self.compose("up", "-d", "--no-deps", "--wait", *arguments, **variables)

    def containers(self, service: str = "service") -> list[str]:
        """Ids of the containers of a service, running or not."""
        return self.compose("ps", "-aq", service).split()

    def log(self, service: str) -> str:
        """Standard output and error of the containers of a service."""
        done = [try_docker("logs", container) for container in self.containers(service)]
        return "".join(log.stdout + log.stderr for log in done)

    def address_of(self, container: str) -> str:
        """A container's address in the private network, which only this machine can reach."""
        return str(inspect(container)["NetworkSettings"]["Networks"][f"{self.name}_private"]["IPAddress"])

    def metric(self, container: str, name: str) -> float:
        """Sum of the samples of a metric of a replica."""
        with urllib.request.urlopen(f"http://{self.address_of(container)}:8002/metrics", timeout=10) as response:
            lines = response.read().decode().splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))

    def down(self) -> None:
        """Remove the project's containers, networks and volumes."""
        self.compose("down", "-v", "--remove-orphans", "-t", "1")


def upgrade(stack: Stack, image: str) -> subprocess.CompletedProcess[str]:
    """Run deploy/upgrade as an operator whose .env names this image of the service."""
    environment = stack.variables | {"PATH": os.environ["PATH"], "HOME": os.environ["HOME"], "SERVICE_IMAGE": image}
    return subprocess.run(
        [ROOT / "deploy/upgrade"], env=environment, cwd="/", capture_output=True, text=True, check=False, timeout=300
    )


def changed_image(image: str, folder: Path, line: str = "") -> str:
    """The name of an image that differs from this one in a line of its Dockerfile, by default a label."""
    (folder / "Dockerfile").write_text(f"FROM {image}\n{line or f'LABEL changed={time.time()}'}\n")
    changed = f"{image}-changed"
    docker("build", "-q", "-t", changed, "-f", str(folder / "Dockerfile"), str(folder))
    return changed


def inspect(container: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(docker("inspect", container))[0]
    return found


def healthy(container: str) -> bool:
    return bool(inspect(container)["State"].get("Health", {}).get("Status") == "healthy")


def call(
    address: str, *, token: str = "", credentials: grpc.ChannelCredentials | None = None, wait: bool = False
) -> pb.ModelInferResponse:
    """The answer to one request, on a new connection; with `wait`, once there is one."""
    metadata = [("authorization", f"Bearer {token}")] if token else []
    with channel(address, retry=False, credentials=credentials) as connection:
        answer: pb.ModelInferResponse = GRPCInferenceServiceStub(connection).ModelInfer(
            REQUEST, timeout=10, metadata=metadata, wait_for_ready=wait
        )
        return answer


def refusal(address: str, **options: Any) -> grpc.StatusCode:
    """The status of a call that must fail."""
    with pytest.raises(grpc.RpcError) as refused:
        call(address, **options)
    return refused.value.code()


def readable_copy(source: Path, target: Path) -> Path:
    """Copy a folder, so that the user of the containers can read it."""
    shutil.copytree(source, target)
    for path in (target, *target.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return target
