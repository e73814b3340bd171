"""Calls of the client with a proxy in the environment: a real one, which leads to a real service."""

from collections.abc import Iterator

import grpc
import pytest

from service.client import Client
from tests.support.local_service import local_service
from tests.support.models import add_version, doubling_model
from tests.support.proxy import Proxy, connect_proxy

VARIABLES = ("grpc_proxy", "https_proxy", "http_proxy", "HTTPS_PROXY")
ELSEWHERE = "classify.example.com:8001"


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a service."""
    models = tmp_path_factory.mktemp("proxied")
    add_version(models, "double", doubling_model())
    with local_service(models, "aio") as service:
        yield service.address


@pytest.fixture
def proxy(address: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """A proxy that leads to the service whatever it is asked for. The environment names none, and excludes nothing."""
    for name in (*VARIABLES, "HTTP_PROXY", "no_grpc_proxy", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with connect_proxy(address) as proxy:
        yield proxy


def serving(url: str) -> bool:
    with Client(url, timeout=10) as client:
        return client.serving()


@pytest.mark.parametrize("variable", VARIABLES)
def test_loopback_passes_the_proxy_by_and_another_name_goes_through_it(
    proxy: Proxy, address: str, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, proxy.url)
    port = address.rpartition(":")[2]
    for loopback in (address, f"localhost:{port}", f"dns:///localhost:{port}", f"ipv4:127.0.0.1:{port}"):
        assert serving(loopback)
    assert proxy.asked == []
    assert serving(ELSEWHERE)
    assert proxy.asked == [f"CONNECT {ELSEWHERE}"]


@pytest.mark.parametrize(
    ("variable", "listed"),
    [
        ("no_proxy", "other.net,.example.com"),
        ("NO_PROXY", "classify.example.com"),
        ("no_proxy", "*"),
        ("NO_PROXY", "*.example.com"),
        ("no_grpc_proxy", ELSEWHERE),
    ],
)
def test_a_listed_name_does_not_go_through_it(
    proxy: Proxy, variable: str, listed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", proxy.url)
    monkeypatch.setenv(variable, listed)
    with Client(ELSEWHERE, timeout=1) as client, pytest.raises(grpc.RpcError):  # there is no such host
        client.serving()
    assert proxy.asked == []


def test_the_error_of_a_dead_proxy_names_it(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    proxy.close()
    monkeypatch.setenv("http_proxy", proxy.url)
    with pytest.raises(grpc.RpcError) as raised:
        serving(ELSEWHERE)
    (note,) = raised.value.__notes__
    assert f"http_proxy, {proxy.url.removeprefix('http://')}" in note
