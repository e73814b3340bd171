"""Clients that others wrote, unmodified, over TLS and with certificates of their own (mTLS)."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import outside
from tests.support.certificates import Authority
from tests.support.models import add_version, doubling_model
from tests.support.paths import ROOT
from tests.support.processes import clean_environment, service_process
from tests.support.terminator import terminator

NODE_FOLDER = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "simplecnn" / "node"
NODE_PACKAGES = ["@grpc/grpc-js@1.14.7", "@grpc/proto-loader@0.8.1"]


@dataclass(frozen=True)
class Ports:
    """The addresses of one service behind TLS and mTLS, and the arguments of a client for each."""

    tls: list[str]
    mtls: list[str]


@pytest.fixture(scope="module")
def ports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ports]:
    folder = tmp_path_factory.mktemp("tls")
    authority = Authority(folder / "files")
    pair = authority.issue("local", "DNS:localhost", "IP:127.0.0.1")
    caller = [str(path) for path in authority.issue("caller", usage="clientAuth")]
    add_version(folder / "models", "double", doubling_model(), config="max_batch_size: 8")
    (folder / "tls").mkdir()
    (folder / "mtls").mkdir()
    with (
        service_process(folder / "models") as service,
        terminator(folder / "tls", service.address, pair) as tls,
        terminator(folder / "mtls", service.address, pair, authority.ca) as mtls,
    ):
        common = ["double", str(authority.ca)]
        yield Ports([tls, *common], [mtls, *common, *caller])


@pytest.mark.parametrize("kind", ["tls", "mtls"])
def test_tritonclient_works_over_tls(ports: Ports, kind: str) -> None:
    seen: dict[str, Any] = outside("triton_tls.py", *getattr(ports, kind))
    answered = {"ready": True, "shapes": [[1, 4]]}
    assert seen == {"sync": answered, "aio": answered, "plain": "UNAVAILABLE"}


@pytest.fixture(scope="module")
def node() -> dict[str, str]:
    """The environment of a Node process that finds gRPC's packages; installs them the first time."""
    if not (shutil.which("node") and shutil.which("npm")):
        pytest.skip("Node and npm are not installed")
    command = ["npm", "install", "--prefix", str(NODE_FOLDER), "--prefer-offline", "--ignore-scripts", "--no-audit"]
    NODE_FOLDER.mkdir(parents=True, exist_ok=True)
    installed = subprocess.run(["/usr/bin/env", *command, *NODE_PACKAGES], capture_output=True, text=True, check=False)
    if installed.returncode:
        pytest.skip(f"npm cannot install {' '.join(NODE_PACKAGES)}: {installed.stderr[-200:]}")
    return clean_environment() | {"NODE_PATH": str(NODE_FOLDER / "node_modules")}


@pytest.mark.parametrize("kind", ["tls", "mtls"])
def test_nodes_client_works_over_tls(ports: Ports, kind: str, node: dict[str, str]) -> None:
    command = ["/usr/bin/env", "node", str(ROOT / "tests/outside/node_tls.js"), *getattr(ports, kind)]
    result = subprocess.run(command, env=node, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout) == {"status": "SERVING", "shapes": [[1, 4]]}
