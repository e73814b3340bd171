"""The images, and one service with its edge and Prometheus, in real containers: `make test-containers`.

Each test uses the stack as an operator does, through `docker compose`. The model repository is a folder on the host.
"""

import json
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
from service.pb.inference_pb2_grpc import GRPCInferenceServiceStub
from tests.conftest import outside
from tests.soaks.load import ConstantLoad, channel, once_ready
from tests.support.containers import MODEL, REQUEST, Stack, call, docker, healthy, inspect, try_docker
from tests.support.paths import ROOT

pytestmark = [pytest.mark.containers, pytest.mark.timeout(600)]

MB = 1_000_000


@pytest.fixture(scope="module")
def stack(images: dict[str, str], repository: Path) -> Iterator[Stack]:
    """A running service, edge and Prometheus."""
    stack = Stack(repository, **images)
    try:
        stack.up("service", "edge", "prometheus")
        yield stack
    finally:
        stack.down()


# --- the images --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "entrypoint", "health", "limit"),
    [
        ("service", ["cnn-serve"], ["CMD", "cnn-client", "health"], 350 * MB),
        ("edge", ["python", "-m", "edge"], ["CMD", "python", "-m", "edge", "health"], 250 * MB),
    ],
)
def test_the_image_is_small_and_unprivileged(
    images: dict[str, str], name: str, entrypoint: list[str], health: list[str], limit: int
) -> None:
    image = images[f"{name.upper()}_IMAGE"]
    size = int(docker("image", "inspect", "-f", "{{.Size}}", image))
    base = int(docker("image", "inspect", "-f", "{{.Size}}", images.get("PYTHON_IMAGE", "python:3.13-slim")))
    assert size - base <= limit, f"{(size - base) / MB:.0f} MB"
    config = inspect(image)["Config"]
    assert config["User"] == "10001:10001" and config["Entrypoint"] == entrypoint
    assert config["Healthcheck"]["Test"] == health
    assert config["Labels"]["org.opencontainers.image.title"] == f"simplecnn-{name}"


def test_the_services_image_contains_no_build_tools_and_no_training_code(images: dict[str, str]) -> None:
    code = (
        "import importlib.util, pathlib, shutil, service, sys\n"
        "print([n for n in ('torch', 'onnx', 'training', 'setuptools', 'pip') if importlib.util.find_spec(n)])\n"
        "print([n for n in ('gcc', 'cc', 'make') if shutil.which(n)])\n"
        "print(pathlib.Path('/root/.cache').exists(), pathlib.Path(sys.prefix).owner())\n"
    )
    image = images["SERVICE_IMAGE"]
    assert docker("run", "--rm", "--user", "0", "--entrypoint", "python", image, "-I", "-c", code).splitlines() == [
        "[]",
        "[]",
        "False root",
    ]


@pytest.mark.parametrize(
    ("flags", "error"),
    [
        ([], "error: --host 0.0.0.0: strangers may reach"),
        (["--behind-edge", "--device", "cuda"], "error: --device cuda"),
    ],
)
def test_a_container_that_cannot_start_prints_one_error_line_and_exits_with_2(
    images: dict[str, str], flags: list[str], error: str
) -> None:
    """Run by itself, the image would be an open address without TLS."""
    done = try_docker("run", "--rm", "--read-only", "--tmpfs", "/tmp", images["SERVICE_IMAGE"], *flags)  # noqa: S108
    assert done.returncode == 2 and done.stderr.startswith(error) and len(done.stderr.splitlines()) == 1


# --- one service, its edge and Prometheus ------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "memory"), [("service", 2**30), ("edge", 2**29)])
def test_the_container_is_healthy_and_runs_without_privileges(stack: Stack, name: str, memory: int) -> None:
    (container,) = stack.containers(name)
    assert healthy(container)
    code = (
        "import os, pathlib\n"
        "status = dict(line.split(':\\t') for line in pathlib.Path('/proc/self/status').read_text().splitlines())\n"
        "print(os.getuid(), int(status['CapEff'], 16), int(status['CapBnd'], 16), status['NoNewPrivs'])\n"
        "for path in ('/x', '/models/x', '/opt/venv/x', '/opt/edge/x', '/tmp/x'):\n"
        "    try: pathlib.Path(path).touch(); print(path)\n"
        "    except OSError: pass\n"
    )
    assert docker("exec", container, "python", "-c", code).splitlines() == ["10001 0 0 1", "/tmp/x"]  # noqa: S108
    limits = inspect(container)["HostConfig"]
    assert limits["Memory"] == memory and limits["NanoCpus"] == 2 * 10**9 and limits["PidsLimit"]


def test_the_edge_limits_its_heap_to_three_quarters_of_its_containers_memory(stack: Stack) -> None:
    code = "import pathlib; (file,) = pathlib.Path('/tmp').glob('edge-*/envoy.yaml'); print(file.read_text())"
    configuration = docker("exec", stack.containers("edge")[0], "python", "-c", code)
    assert f"max_heap_size_bytes: {2**29 * 3 // 4}" in configuration


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


def test_prometheus_scrapes_service_and_edge_and_loads_every_rule(stack: Stack) -> None:
    def targets() -> dict[str, str]:
        active = ask_prometheus(stack, "targets", state="active")["activeTargets"]
        return {target["labels"]["job"]: target["health"] for target in active}

    once_ready(lambda: targets() == {"service": "up", "edge": "up", "prometheus": "up"}, "every target is up")
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


def test_a_service_that_reached_its_memory_limit_is_restarted_and_serves_again_behind_the_same_edge(
    stack: Stack,
) -> None:
    stack.up("service", SERVICE_MEMORY="256m")
    (container,), (edge,) = stack.containers(), stack.containers("edge")
    before, began = inspect(edge)["State"]["StartedAt"], int(time.time())

    def flood() -> None:
        """Pass the edge by, which bounds messages."""
        address = f"{stack.address_of(container)}:8001"
        with grpc.insecure_channel(address, [("grpc.max_send_message_length", -1)]) as connection:
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
    once_ready(lambda: answers(stack), "the edge sends it calls again", limit=15)
    assert inspect(edge)["State"]["StartedAt"] == before


def answers(stack: Stack) -> bool:
    try:
        return bool(call(stack.address).outputs)
    except grpc.RpcError:
        return False


def test_a_service_that_reports_not_serving_is_asked_if_it_is_the_only_one(stack: Stack) -> None:
    """The last resort: one that still answers is better than nobody."""
    stack.up("service", SERVICE_LAME_DUCK_SECONDS="6")
    once_ready(lambda: answers(stack), "the edge has found the new container")
    (container,) = stack.containers()
    stop = threading.Thread(target=docker, args=("stop", container))
    stop.start()
    once_ready(lambda: not_serving(stack.address_of(container)), "the service reports NOT_SERVING")
    time.sleep(3)  # the edge asks each second, and believes the second answer
    answered = [answers(stack) for _ in range(50)]
    stop.join()
    assert all(answered)


def not_serving(address: str) -> bool:
    with grpc.insecure_channel(f"{address}:8001") as connection:
        request = health_pb2.HealthCheckRequest(service="")
        status = health_pb2_grpc.HealthStub(connection).Check(request, timeout=5).status
    return bool(status == health_pb2.HealthCheckResponse.NOT_SERVING)


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
    """The only requests that fail are those that can no longer connect. The callers pass the edge by."""
    stack.up("service", SERVICE_GRPC_SERVER="aio", SERVICE_LAME_DUCK_SECONDS="2")
    (container,) = stack.containers()
    address = f"{stack.address_of(container)}:8001"
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
    (stopped,) = [json.loads(line) for line in stack.log("service").splitlines() if '"event": "stopped"' in line]
    assert stopped["answered"] == sum(caller.answered for caller in callers) > 1000
    for caller in callers:
        assert caller.failure is not None
        assert caller.failure.code() is grpc.StatusCode.UNAVAILABLE
        assert "connect" in str(caller.failure.details()).lower(), caller.failure.details()
