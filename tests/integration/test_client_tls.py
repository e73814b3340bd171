"""The client over TLS: what works, and what it says of servers, names and certificates that do not fit."""

from collections.abc import Iterator
from concurrent import futures
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from service.client import Client, Tls
from service.pb import health_pb2, health_pb2_grpc
from tests.support.certificates import Authority
from tests.support.local_service import local_service
from tests.support.models import add_version, doubling_model
from tests.support.terminator import terminator


@dataclass(frozen=True)
class Servers:
    """The addresses of one service, and the files of TLS."""

    plain: str
    tls: str
    named: str  # its certificate is for classify.example.com
    mtls: str
    ca: Path
    named_certificate: Path
    caller: Tls
    stranger: Tls


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    folder = tmp_path_factory.mktemp("servers")
    authority = Authority(folder / "files")
    local = authority.issue("local", "DNS:localhost", "IP:127.0.0.1")
    named = authority.issue("named", "DNS:classify.example.com")
    strangers = Authority(folder / "strangers")
    pairs = [owner.issue("caller", usage="clientAuth") for owner in (authority, strangers)]
    caller, stranger = (Tls(authority.ca, *pair) for pair in pairs)
    add_version(folder / "models", "double", doubling_model())
    for name in ("tls", "named", "mtls"):
        (folder / name).mkdir()
    with (
        local_service(folder / "models", "aio") as service,
        terminator(folder / "tls", service.address, local) as tls,
        terminator(folder / "named", service.address, named) as other_name,
        terminator(folder / "mtls", service.address, local, authority.ca) as mtls,
    ):
        yield Servers(service.address, tls, other_name, mtls, authority.ca, named[0], caller, stranger)


def serving(url: str, tls: Tls | None) -> bool:
    with Client(url, tls=tls) as client:
        return client.serving()


def test_every_method_works_over_tls(servers: Servers) -> None:
    with Client(servers.tls, tls=Tls(ca=servers.ca)) as client:
        assert client.serving()
        assert [model.name for model in client.models()] == ["double"]
        with pytest.raises(grpc.RpcError, match="takes no images"):
            client.classify("double", [b"picture"])


def test_a_client_with_a_certificate_is_accepted(servers: Servers) -> None:
    assert serving(servers.mtls, servers.caller)


def test_the_servers_own_certificate_will_do_as_authority_and_its_name_can_be_given(servers: Servers) -> None:
    assert serving(servers.named, Tls(ca=servers.named_certificate, server_name="classify.example.com"))


def test_the_systems_authorities_are_trusted(servers: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", raising=False)
    monkeypatch.setenv("SSL_CERT_FILE", str(servers.ca))
    assert serving(servers.tls, Tls())


def hint(url: str, tls: Tls | None) -> str:
    """The note of the error that a call ends with."""
    with pytest.raises(grpc.RpcError) as raised:
        serving(url, tls)
    assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
    (note,) = raised.value.__notes__
    return note


def test_a_plain_call_to_a_tls_server_is_told_to_try_tls(servers: Servers) -> None:
    assert "connect with --tls" in hint(servers.tls, None)
    assert "connect with --tls" in hint(servers.mtls, None)


def test_a_tls_call_to_a_plain_server_is_told_so(servers: Servers) -> None:
    assert "does not use TLS" in hint(servers.plain, Tls(ca=servers.ca))


def test_a_tls_call_to_the_plain_native_server_is_told_so(toys: Path) -> None:
    with local_service(toys, "native") as service:
        assert "does not use TLS" in hint(service.address, Tls())


def test_the_certificate_of_another_name_is_said_to_be(servers: Servers) -> None:
    assert "for another name" in hint(servers.named, Tls(ca=servers.ca))


def test_an_unknown_authority_is_said_to_be(servers: Servers) -> None:
    assert "unknown authority" in hint(servers.tls, Tls(ca=servers.named_certificate))


def test_a_server_that_asks_for_certificates_is_said_to(servers: Servers) -> None:
    assert "may ask for a client's certificate" in hint(servers.mtls, Tls(ca=servers.ca))
    assert "may not accept this client's certificate" in hint(servers.mtls, servers.stranger)


class Healthy(health_pb2_grpc.HealthServicer):
    def Check(self, request: object, context: object) -> health_pb2.HealthCheckResponse:  # noqa: N802 - gRPC's name
        return health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING)


def test_grpcs_own_server_is_understood_as_well(servers: Servers) -> None:
    """Its texts differ from those of Envoy."""
    server = grpc.server(futures.ThreadPoolExecutor(1))
    health_pb2_grpc.add_HealthServicer_to_server(Healthy(), server)
    folder = servers.ca.parent
    pair = (folder / "local.key").read_bytes(), (folder / "local.crt").read_bytes()
    credentials = grpc.ssl_server_credentials([pair], servers.ca.read_bytes(), require_client_auth=True)
    port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    try:
        url = f"127.0.0.1:{port}"
        assert serving(url, servers.caller)
        assert "connect with --tls" in hint(url, None)
        assert "may ask for a client's certificate" in hint(url, Tls(ca=servers.ca))
        assert "may not accept this client's certificate" in hint(url, servers.stranger)
    finally:
        server.stop(None).wait()
