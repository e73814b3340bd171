"""Clients that others wrote, unmodified, against what goes beyond plain inference."""

import hashlib
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from onnx import TensorProto

from tests.conftest import outside
from tests.support.certificates import LOCAL, Authority
from tests.support.models import add_version, adding_model, doubling_model, identity_model
from tests.support.paths import ROOT, SHARED
from tests.support.processes import service_process
from tests.support.tokens import LIMITED

PERF_ANALYZER = SHARED / "bench" / "perf_analyzer"
INSTALLED = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "serving-bench"
BATCHING = "max_batch_size: 8 dynamic_batching { }"


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    models = tmp_path / "models"
    add_version(models, "text", identity_model(TensorProto.STRING, ["N", 3]), config=BATCHING)
    add_version(models, "half", identity_model(TensorProto.BFLOAT16, ["N", 3]), config=BATCHING)
    levels = BATCHING.replace("{ }", "{ priority_levels: 2 default_priority_level: 1 }")
    add_version(models, "adding", adding_model(), config=levels)
    output = 'output { name: "y" data_type: TYPE_FP32 dims: [ 4 ] label_filename: "labels.txt" }'
    add_version(models, "classes", identity_model(TensorProto.FLOAT, ["N", 4]), config=f"{BATCHING} {output}")
    (models / "classes" / "labels.txt").write_text("zero\none\ntwo\n")
    return models


def test_tritonclient_can_ask_for_all_that_is_offered(repository: Path, tmp_path: Path, grpc_server: str) -> None:
    (tmp_path / "tokens").write_text(hashlib.sha256(b"secret").hexdigest() + " infer,control")
    flags = ["--grpc-server", grpc_server, "--enable-model-control", "--tokens-file", str(tmp_path / "tokens")]
    with service_process(repository, *flags) as service:
        seen: dict[str, Any] = outside("triton_extensions.py", service.address, "secret")
    good = [index for index in range(20) if index % 5]
    assert seen["sync"] == {
        "text": ["snow", "ü", ""],
        "half": [1.5, -2.0, 0.25],
        "sum": [[2, 4]],
        "classes": ["0.700000:1:one", "0.200000:2:two"],
        "async": True,
        "streamed": good,
        "stream errors": 4,
        "unloaded": True,
        "loaded": True,
        "log settings": True,
        "statistics": "classes",
        "no token": "UNAUTHENTICATED",
        "trace": "UNIMPLEMENTED",
        "shared memory": "UNIMPLEMENTED",
        "cuda memory": "UNIMPLEMENTED",
        "override": "UNIMPLEMENTED",
    }
    assert seen["aio"] == {
        "streamed": good,
        "stream errors": 4,
        "classes": "0.700000:1:one",
        "unloaded": True,
        "loaded": True,
        "index": ["adding", "classes", "half", "text"],
    }


OURS, THEIRS = "service.client,service.pb.health_pb2_grpc", "tritonclient.grpc,grpc_health.v1.health_pb2_grpc"


@pytest.mark.parametrize("order", [f"{OURS},{THEIRS}", f"{THEIRS},{OURS}"], ids=["ours first", "theirs first"])
def test_our_client_and_tritonclient_work_in_one_process(
    published: Path, order: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both describe the packages `inference` and `grpc.health.v1`; ours do so in a descriptor pool of their own."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    with service_process(published) as service:
        seen: dict[str, Any] = outside("both_clients.py", service.address, order)
    assert seen["pools"] == [True, False]
    assert seen["health"] == [True, "SERVING"]
    assert seen["models"] == [[["mnist-simplecnn", "1", "READY"]]] * 2
    assert seen["largest difference"] == 0 and seen["shape"] == [3, 10]
    assert seen["classified"] == ["OK", "INVALID_ARGUMENT"]


def test_reflection_describes_every_service_that_it_lists(toys: Path, grpc_server: str) -> None:
    add_version(toys, "mnist-simplecnn", doubling_model())  # the script asks for its health
    with service_process(toys, "--grpc-server", grpc_server) as service:
        seen: dict[str, Any] = outside("grpc_tools_clients.py", service.address)
    assert seen["services"] == [
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
        "inference.GRPCInferenceService",
        "simplecnn.v1.ImageClassifier",
    ]
    counts = {name: len(methods) for name, methods in seen["described"].items()}
    assert counts == dict(zip(seen["services"], (3, 1, 20, 1), strict=True))


@pytest.mark.peer
@pytest.mark.skipif(
    not (PERF_ANALYZER.exists() and INSTALLED.exists()), reason="perf_analyzer is not installed: ../shared/bench/setup"
)
@pytest.mark.parametrize("mode", [[], ["--async"], ["--streaming", "--async"], ["-b", "8"]])
def test_perf_analyzer_measures_it_and_prints_where_time_goes(
    published: Path, grpc_server: str, mode: list[str]
) -> None:
    with service_process(published, "--grpc-server", grpc_server) as service:
        command = [str(PERF_ANALYZER), "-m", "mnist-simplecnn", "-u", service.address, "-i", "grpc", *mode]
        command += ["--concurrency-range", "4", "--measurement-interval", "500", "-s", "1000"]  # any figure will do
        result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert re.search(r"Server:.*Inference count: [1-9].*Execution count: [1-9]", result.stdout, re.DOTALL), (
        result.stdout
    )
    total, *parts = (
        int(value)
        for value in re.search(
            r"Avg request latency: (\d+) usec \(overhead (\d+) usec \+ queue (\d+) usec \+ compute input (\d+) usec "
            r"\+ compute infer (\d+) usec \+ compute output (\d+) usec",
            result.stdout,
        ).groups()  # type: ignore[union-attr]
    )
    assert abs(total - sum(parts)) <= len(parts), "the durations do not add up"
    assert parts[0] <= 0.2 * total, "time that nobody accounts for"


def test_tritonclient_calls_over_tls_with_a_certificate_and_a_token(
    toys: Path, tmp_path: Path, tokens_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = Authority(tmp_path / "authority")
    certificate, key = authority.issue("server", *LOCAL, usage="serverAuth")
    caller = authority.issue("caller", usage="clientAuth")
    flags = ["--tls-certificate", str(certificate), "--tls-key", str(key), "--tls-client-ca", str(authority.ca)]
    monkeypatch.setenv("CNN_TOKEN", LIMITED)
    with service_process(toys, *flags, "--tokens-file", str(tokens_file)) as service:
        seen = outside("triton_tls.py", service.address, "double", str(authority.ca), *map(str, caller))
    answered = {"ready": True, "shapes": [[1, 4]]}
    assert seen == {"sync": answered, "aio": answered, "plain": "UNAVAILABLE"}
