"""The image and the Compose stack in real containers, tested from outside: `make test-containers`.

Base images come from a registry or, if no registry can be reached, from ../shared/containers/setup. Each test uses the
stack as an operator does, through `docker compose`. The model repository is a folder on the host.
"""

import json
import os
import shutil
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import yaml
from PIL import Image

from service.pb import health_pb2, health_pb2_grpc
from service.pb import inference_pb2 as pb
from service.pb.inference_pb2_grpc import GRPCInferenceServiceStub
from tests.conftest import outside
from tests.soaks.load import ConstantLoad, channel, once_ready
from tests.support.models import copy_repository
from tests.support.paths import ROOT, SHARED
from tests.support.processes import free_port
from tests.support.requests import infer_request, outputs_of

pytestmark = [pytest.mark.containers, pytest.mark.timeout(600)]

MODEL = "mnist-simplecnn"
STAND_INS = {
    "PYTHON_IMAGE": "local/python:3.13-slim",
    "PROMETHEUS_IMAGE": "local/prometheus:2.53",
    "HAPROXY_IMAGE": "local/haproxy:3.0",
}
SCALE = ("-f", "docker-compose.yml", "-f", "deploy/compose/scale.yml")
MB = 1_000_000
REQUEST = infer_request(MODEL, images=np.zeros((1, 28, 28, 1), np.uint8))


def docker(*arguments: str, **environment: str) -> str:
    """Standard output of a docker command that must succeed."""
    done = subprocess.run(
        ["docker", *arguments],  # noqa: S607
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    output = done.stdout[-3000:] + done.stderr[-3000:]
    assert done.returncode == 0, f"docker {' '.join(arguments)}\n{output}"
    return done.stdout.strip()


def call(address: str, *, retry: bool = False) -> pb.ModelInferResponse:
    """The answer to one request, on a new connection."""
    with channel(address, retry=retry) as connection:
        answer: pb.ModelInferResponse = GRPCInferenceServiceStub(connection).ModelInfer(REQUEST, timeout=10)
        return answer


@pytest.fixture(scope="module")
def images() -> dict[str, str]:
    """Compose variables that name the base images; the Docker engine is running and has the images."""

    def works(*command: str) -> bool:
        return subprocess.run(["docker", *command], capture_output=True, check=False).returncode == 0  # noqa: S607

    setup = SHARED / "containers" / "setup"
    if works("info") and works("pull", "-q", "python:3.13-slim"):
        return {}
    if not setup.exists():
        pytest.skip("the Docker engine is not running, or reaches no registry")
    subprocess.run([setup], check=True)
    return STAND_INS


@pytest.fixture(scope="module")
def image(images: dict[str, str]) -> str:
    """The service image, built from this checkout."""
    docker("compose", "build", "service", SERVICE_IMAGE="simplecnn-service:test", **images)
    return "simplecnn-service:test"


class Stack:
    """A Compose project with its own ports; its model repository is a folder on the host."""

    def __init__(self, repository: Path, image: str, images: dict[str, str]) -> None:
        self.repository = repository
        names = ("GRPC_PORT", "METRICS_PORT", "PROMETHEUS_PORT", "GRPCS_PORT")
        self.ports = {name: free_port() for name in names}
        self.address = f"127.0.0.1:{self.ports['GRPC_PORT']}"
        self._environment = {
            "COMPOSE_PROJECT_NAME": f"simplecnn-test-{os.getpid()}",
            "SERVICE_IMAGE": image,
            "MODELS": str(repository),
            "SERVICE_REPOSITORY_POLL_SECONDS": "1",
            **{name: str(port) for name, port in self.ports.items()},
            **images,
        }

    def compose(self, *arguments: str, files: tuple[str, ...] = (), **environment: str) -> str:
        """Run `docker compose …` in this project."""
        return docker("compose", *files, *arguments, **(self._environment | environment))

    def up(self, *services: str, files: tuple[str, ...] = (), **environment: str) -> None:
        """Start services without their dependencies, and wait until they are healthy."""
        self.compose("up", "-d", "--no-deps", "--no-build", "--wait", *services, files=files, **environment)

    def containers(self, service: str = "service") -> list[str]:
        """Ids of the containers of a service, running or not."""
        return self.compose("ps", "-aq", service, files=SCALE).split()

    def down(self) -> None:
        """Remove the project's containers, networks and volumes."""
        self.compose("down", "-v", "--remove-orphans", "-t", "1", files=SCALE)


@pytest.fixture(scope="module")
def stack(
    image: str, images: dict[str, str], published: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    """A running service and Prometheus."""
    folder = tmp_path_factory.mktemp("stack")
    repository = copy_repository(published, folder / "models")
    for path in (*folder.parents, folder, *repository.rglob("*")):  # readable for the container's user
        if path.is_relative_to(folder.parents[1]):
            path.chmod(0o755 if path.is_dir() else 0o644)
    stack = Stack(repository, image, images)
    try:
        stack.up("service", "prometheus")
        yield stack
    finally:
        stack.down()


def inspect(container: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(docker("inspect", container))[0]
    return found


def ip_of(container: str) -> str:
    """Address of a container that bypasses Docker's proxy, which accepts connections even for a stopped container."""
    (network,) = inspect(container)["NetworkSettings"]["Networks"].values()
    return str(network["IPAddress"])


def healthy(container: str) -> bool:
    return bool(inspect(container)["State"].get("Health", {}).get("Status") == "healthy")


def metric(container: str, name: str) -> float:
    """Sum of the samples of a metric."""
    with urllib.request.urlopen(f"http://{ip_of(container)}:8002/metrics", timeout=10) as response:
        lines = response.read().decode().splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))


# --- the image ---------------------------------------------------------------------------------------------------


def test_the_image_is_small_and_contains_no_build_tools_and_no_training_code(
    image: str, images: dict[str, str]
) -> None:
    size = int(docker("image", "inspect", "-f", "{{.Size}}", image))
    base = int(docker("image", "inspect", "-f", "{{.Size}}", images.get("PYTHON_IMAGE", "python:3.13-slim")))
    assert size - base <= 350 * MB, f"{(size - base) / MB:.0f} MB"
    config = inspect(image)["Config"]
    assert config["User"] == "10001:10001" and config["Entrypoint"] == ["cnn-serve"]
    assert config["Healthcheck"]["Test"] == ["CMD", "cnn-client", "health"]
    assert config["Labels"]["org.opencontainers.image.title"] == "simplecnn-service"
    code = (
        "import importlib.util, pathlib, shutil, service, sys\n"
        "print([n for n in ('torch', 'onnx', 'training', 'setuptools', 'pip') if importlib.util.find_spec(n)])\n"
        "print([n for n in ('gcc', 'cc', 'make') if shutil.which(n)])\n"
        "print(pathlib.Path('/root/.cache').exists(), pathlib.Path(sys.prefix).owner())\n"
    )
    assert docker("run", "--rm", "--user", "0", "--entrypoint", "python", image, "-I", "-c", code).splitlines() == [
        "[]",
        "[]",
        "False root",
    ]


def test_a_container_that_cannot_start_prints_one_error_line_and_exits_with_2(image: str) -> None:
    done = subprocess.run(
        ["docker", "run", "--rm", "--read-only", "--tmpfs", "/tmp", image, "--device", "cuda"],  # noqa: S607, S108
        capture_output=True,
        text=True,
        check=False,
    )
    assert (
        done.returncode == 2 and done.stderr.startswith("error: --device cuda") and len(done.stderr.splitlines()) == 1
    )


# --- one service and Prometheus ----------------------------------------------------------------------------------


def test_the_container_is_healthy_and_runs_without_privileges(stack: Stack) -> None:
    (container,) = stack.containers()
    assert healthy(container)
    code = (
        "import os, pathlib\n"
        "status = dict(line.split(':\\t') for line in pathlib.Path('/proc/self/status').read_text().splitlines())\n"
        "print(os.getuid(), int(status['CapEff'], 16), int(status['CapBnd'], 16), status['NoNewPrivs'])\n"
        "for path in ('/x', '/models/x', '/opt/venv/x', '/tmp/x'):\n"
        "    try: pathlib.Path(path).touch(); print(path)\n"
        "    except OSError: pass\n"
    )
    assert docker("exec", container, "python", "-c", code).splitlines() == ["10001 0 0 1", "/tmp/x"]  # noqa: S108
    limits = inspect(container)["HostConfig"]
    assert limits["Memory"] == 2**30 and limits["NanoCpus"] == 2 * 10**9 and limits["PidsLimit"] == 512
    assert {port["HostIp"] for ports in limits["PortBindings"].values() for port in ports} == {"127.0.0.1"}


def test_tritonclient_measures_the_accuracy_in_the_manifest(
    stack: Stack, test_images: tuple[Any, Any], tmp_path: Path
) -> None:
    images, labels = test_images
    np.savez(tmp_path / "images.npz", images=images)
    answer = outside("triton_sync.py", stack.address, str(tmp_path / "images.npz"))
    manifest = json.loads((stack.repository / MODEL / "1" / "manifest.json").read_text())
    correct = np.array(answer["probabilities"]).argmax(1) == labels
    assert correct.mean() == pytest.approx(manifest["metrics"]["test_accuracy"])


def test_the_client_in_the_container_classifies_a_picture(
    stack: Stack, test_images: tuple[Any, Any], tmp_path: Path
) -> None:
    images, labels = test_images
    Image.fromarray(images[0][..., 0]).save(tmp_path / "digit.png")
    with (tmp_path / "digit.png").open("rb") as picture:
        done = subprocess.run(
            ["docker", "exec", "-i", stack.containers()[0], "cnn-client", "classify", "/dev/stdin"],  # noqa: S607
            stdin=picture,
            capture_output=True,
            text=True,
            check=True,
        )
    assert done.stdout.split()[1] == str(labels[0])


def ask_prometheus(stack: Stack, path: str, **parameters: str) -> Any:
    url = f"http://127.0.0.1:{stack.ports['PROMETHEUS_PORT']}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
    with urllib.request.urlopen(url, timeout=10) as response:
        return json.load(response)["data"]


def test_prometheus_scrapes_the_service_and_loads_every_rule(stack: Stack) -> None:
    def targets() -> dict[str, str]:
        active = ask_prometheus(stack, "targets", state="active")["activeTargets"]
        return {target["labels"]["job"]: target["health"] for target in active}

    once_ready(lambda: targets() == {"service": "up", "prometheus": "up"}, "both targets are up")
    with ConstantLoad(stack.address, 2, rate=50) as load:
        rate = "rate(inference_requests_total[1m]) > 0"
        once_ready(lambda: bool(ask_prometheus(stack, "query", query=rate)["result"]), "the request rate is above 0")
    assert load.outcome.failed == 0
    groups = ask_prometheus(stack, "rules")["groups"]
    loaded = {rule["name"] for group in groups for rule in group["rules"]}
    files = [
        yaml.safe_load((ROOT / f"deploy/monitoring/prometheus/{name}.yml").read_text()) for name in ("rules", "alerts")
    ]
    ours = {
        rule.get("alert", rule.get("record")) for file in files for group in file["groups"] for rule in group["rules"]
    }
    assert loaded == ours
    assert {rule["health"] for group in groups for rule in group["rules"]} <= {"ok", "unknown"}
    firing = ask_prometheus(stack, "query", query='ALERTS{alertstate="firing"}')["result"]
    assert firing == []


def test_a_version_published_under_load_is_served_without_a_failed_request(stack: Stack) -> None:
    model = stack.repository / MODEL
    started = inspect(stack.containers()[0])["State"]["StartedAt"]
    with ConstantLoad(stack.address, 4, rate=50) as load:
        time.sleep(1)
        assert call(stack.address).model_version == "1"
        shutil.copytree(model / "1", model / ".2.tmp")
        (model / ".2.tmp").rename(model / "2")
        once_ready(lambda: call(stack.address).model_version == "2", "the new version answers")
        time.sleep(1)
    assert load.outcome.failed == 0, load.outcome.texts
    assert load.outcome.count() > 300
    assert inspect(stack.containers()[0])["State"]["StartedAt"] == started, "the service restarted"


class Caller(threading.Thread):
    """Sends requests on its own connection, without retries, until one fails."""

    def __init__(self, address: str) -> None:
        super().__init__()
        self.answered = 0
        self.failure: grpc.RpcError | None = None
        self._channel = channel(address, retry=False)

    def run(self) -> None:
        stub = GRPCInferenceServiceStub(self._channel)
        while self.failure is None:
            try:
                stub.ModelInfer(REQUEST, timeout=30)
                self.answered += 1
            except grpc.RpcError as error:
                self.failure = error
        self._channel.close()


def test_docker_stop_under_load_answers_every_accepted_request(stack: Stack) -> None:
    """The only requests that fail are those that can no longer connect."""
    stack.up("service", SERVICE_GRPC_SERVER="aio", SERVICE_LAME_DUCK_SECONDS="2")
    (container,) = stack.containers()
    address = f"{ip_of(container)}:8001"
    callers = [Caller(address) for _ in range(8)]
    for caller in callers:
        caller.start()
    time.sleep(1)
    with grpc.insecure_channel(address) as connection:
        watch = health_pb2_grpc.HealthStub(connection).Watch(health_pb2.HealthCheckRequest(service=""))
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        stop = threading.Thread(target=stack.compose, args=("stop", "service"))
        stop.start()
        assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
        answered = sum(caller.answered for caller in callers)
        time.sleep(1)
        assert sum(caller.answered for caller in callers) > answered + 50, "the server keeps serving as a lame duck"
        watch.cancel()
    stop.join()
    for caller in callers:
        caller.join()
    state = inspect(container)["State"]
    assert state["ExitCode"] == 0 and not state["OOMKilled"]
    command = ["docker", "logs", container]
    log = subprocess.run(command, capture_output=True, text=True, check=True).stderr  # the log
    (stopped,) = [json.loads(line) for line in log.splitlines() if '"event": "stopped"' in line]
    assert stopped["answered"] == sum(caller.answered for caller in callers) > 1000
    for caller in callers:
        assert caller.failure is not None
        assert caller.failure.code() is grpc.StatusCode.UNAVAILABLE
        assert "connect" in str(caller.failure.details()).lower(), caller.failure.details()


def test_docker_restarts_a_service_that_reached_its_memory_limit(stack: Stack) -> None:
    stack.up("service", SERVICE_MEMORY="256m", SERVICE_GRPC_SERVER="native")
    (container,) = stack.containers()
    began = int(time.time())

    def flood() -> None:
        with grpc.insecure_channel(f"{ip_of(container)}:8001", [("grpc.max_send_message_length", -1)]) as connection:
            method: Any = connection.unary_unary("/inference.GRPCInferenceService/ModelInfer")
            with pytest.raises(grpc.RpcError):
                method(bytes(200 * MB), timeout=20)

    floods = [threading.Thread(target=flood) for _ in range(3)]
    for thread in floods:
        thread.start()
    for thread in floods:
        thread.join()
    once_ready(lambda: inspect(container)["RestartCount"] >= 1, "Docker restarted the container")
    happened = docker(
        "events", "--since", str(began), "--until", str(int(time.time()) + 1), "-f", f"container={container}",
        "--format", "{{.Action}} {{.Actor.Attributes.exitCode}}",
    )  # fmt: skip
    assert "oom " in happened and "die 137" in happened, happened
    once_ready(lambda: healthy(container), "the container is healthy again")
    answer = call(f"{ip_of(container)}:8001")
    assert outputs_of(answer)["probabilities"].shape == (1, 10)


# --- three replicas behind HAProxy -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate for "localhost" and its key, in one file."""
    folder = tmp_path_factory.mktemp("tls")
    key, path, both = folder / "key.pem", folder / "certificate.pem", folder / "both.pem"
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *names]
    subprocess.run([*command, "-keyout", key, "-out", path], check=True, capture_output=True)
    both.write_bytes(path.read_bytes() + key.read_bytes())
    for parent in (folder.parent.parent, folder.parent, folder):
        parent.chmod(0o755)
    both.chmod(0o644)  # readable for HAProxy's user
    return both


@pytest.fixture(scope="module")
def fleet(stack: Stack, certificate: Path) -> Stack:
    """Three replicas behind HAProxy, which serves plain text and TLS."""
    stack.compose("rm", "-sf", "service")
    variables = {"TLS_CERTIFICATE": str(certificate), "SERVICE_LAME_DUCK_SECONDS": "3"}
    stack.up("--scale", "service=3", "service", files=SCALE, **variables)
    stack.up("haproxy", files=SCALE, **variables)

    def every_replica_answers() -> bool:
        for _ in range(9):
            call(stack.address, retry=True)
        return all(metric(container, "inference_rows_total") > 0 for container in stack.containers())

    once_ready(every_replica_answers, "HAProxy has discovered all replicas")
    return stack


def test_haproxy_accepts_its_configuration_with_and_without_a_certificate(images: dict[str, str]) -> None:
    haproxy = images.get("HAPROXY_IMAGE", "haproxy:3.0.27")
    place = "/usr/local/etc/haproxy/haproxy.cfg"
    mounted = ["-v", f"{ROOT}/deploy/compose/haproxy.cfg:{place}:ro"]
    for variable in ([], ["-e", "TLS_CERTIFICATE="]):  # unset, or set to nothing as by a line NAME= in .env
        docker("run", "--rm", *variable, *mounted, haproxy, "-c", "-f", place)


def test_haproxy_balances_the_requests_of_one_connection_over_all_replicas(fleet: Stack) -> None:
    before = [metric(container, "inference_requests_total") for container in fleet.containers()]
    with ConstantLoad(fleet.address, 1, rate=100) as load:  # one connection
        time.sleep(3)
    after = [metric(container, "inference_requests_total") for container in fleet.containers()]
    shares = [(now - then) / load.outcome.count() for now, then in zip(after, before, strict=True)]
    assert load.outcome.failed == 0 and sum(shares) == pytest.approx(1)
    assert shares == pytest.approx([1 / 3] * 3, abs=0.02)


def test_our_client_balances_over_the_addresses_of_a_name(fleet: Stack) -> None:
    before = [metric(container, "inference_rows_total") for container in fleet.containers()]
    code = (
        "import numpy as np; from service.client import Client\n"
        "with Client('service:8001') as client:\n"
        f"    for _ in range(300): client.predict('{MODEL}', np.zeros((1, 28, 28, 1), np.uint8))\n"
    )
    docker("exec", fleet.containers()[0], "python", "-c", code)
    after = [metric(container, "inference_rows_total") for container in fleet.containers()]
    assert [now - then for now, then in zip(after, before, strict=True)] == pytest.approx([100] * 3, abs=30)


def test_prometheus_discovers_every_replica(fleet: Stack) -> None:
    query = 'sum(up{job="service"})'
    once_ready(
        lambda: [found["value"][1] for found in ask_prometheus(fleet, "query", query=query)["result"]] == ["3"],
        "Prometheus scrapes all replicas",
    )


def test_haproxy_serves_grpc_over_tls(fleet: Stack, certificate: Path) -> None:
    credentials = grpc.ssl_channel_credentials(certificate.read_bytes())
    with grpc.secure_channel(f"localhost:{fleet.ports['GRPCS_PORT']}", credentials) as connection:
        answer = GRPCInferenceServiceStub(connection).ModelInfer(REQUEST, timeout=10)
    assert outputs_of(answer)["probabilities"].shape == (1, 10)


def test_stopping_a_replica_fails_no_request_of_clients_without_retries(fleet: Stack) -> None:
    leaving = fleet.containers()[0]
    with ConstantLoad(fleet.address, 4, rate=50) as load:
        time.sleep(1)
        docker("stop", "-t", "60", leaving)
        time.sleep(1)
    assert load.outcome.failed == 0, load.outcome.texts
    assert load.outcome.count() > 500 and inspect(leaving)["State"]["ExitCode"] == 0
    docker("start", leaving)
    once_ready(lambda: healthy(leaving), "the replica is healthy again")
    once_ready(
        lambda: bool(call(fleet.address).outputs) and metric(leaving, "inference_rows_total") > 0,
        "the replica receives requests again",
    )


def test_killing_a_replica_fails_no_request_of_clients_with_the_retry_policy(fleet: Stack) -> None:
    killed = fleet.containers()[1]
    with ConstantLoad(fleet.address, 8, retry=True) as load:
        time.sleep(1)
        docker("kill", killed)
        time.sleep(4)
    assert load.outcome.failed == 0, load.outcome.texts
    assert load.outcome.count() > 1000
    running = [container for container in fleet.containers() if inspect(container)["State"]["Running"]]
    assert len(running) == 2 and killed not in [inspect(container)["Id"] for container in running]
