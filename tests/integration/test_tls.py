"""TLS without an edge: the aio server and the metrics port, client certificates, and files that change."""

import contextlib
import http.client
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
import pytest

from service.pb import health_pb2, health_pb2_grpc, inference_pb2_grpc
from service.transport.http.monitoring import MAX_CONNECTIONS
from tests.support.certificates import LOCAL, Authority
from tests.support.local_service import LocalService, local_service
from tests.support.requests import infer_request, outputs_of
from tests.support.waiting import WAIT, wait_until

X = np.arange(4, dtype=np.float32).reshape(1, 4)
REQUEST = infer_request("double", x=X)

Pair = tuple[Path, Path]  # a certificate and its key


@dataclass(frozen=True)
class Served:
    """A service with TLS, the authority of its certificate, and the files that it reads."""

    service: LocalService
    authority: Authority
    certificate: Path
    key: Path

    def channel(self, caller: Pair | None = None) -> grpc.Channel:
        """A channel over a connection of its own."""
        files = [path.read_bytes() for path in (self.authority.ca, *(caller or ())[::-1])]
        return grpc.secure_channel(
            self.service.address, grpc.ssl_channel_credentials(*files), [("grpc.use_local_subchannel_pool", 1)]
        )

    def infer(self, caller: Pair | None = None) -> None:
        """One call on a new connection."""
        with self.channel(caller) as channel:
            infer_on(channel)

    def presented(self) -> str:
        """The name in the certificate that the gRPC port presents now."""
        context = ssl.create_default_context(cafile=str(self.authority.ca))
        context.set_alpn_protocols(["h2"])
        host, port = self.service.address.split(":")
        plain = socket.create_connection((host, int(port)), WAIT)
        with context.wrap_socket(plain, server_hostname="localhost") as connection:
            certificate = connection.getpeercert()
        assert certificate
        return dict(field[0] for field in certificate["subject"])["commonName"]  # type: ignore[misc]

    def get(self, path: str, caller: Pair | None = None) -> tuple[int, str]:
        """Status and body of a response from the metrics port."""
        context = ssl.create_default_context(cafile=str(self.authority.ca))
        if caller:
            context.load_cert_chain(*caller)
        address = self.service.server.metrics_url.split("/")[2]
        with contextlib.closing(http.client.HTTPSConnection(address, context=context, timeout=WAIT)) as connection:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read().decode()

    def renew(self, name: str, names: tuple[str, ...] = LOCAL) -> None:
        """Replace the files that the service reads by a new certificate and its key."""
        for new, old in zip(self.authority.issue(name, *names), (self.certificate, self.key), strict=True):
            shutil.copy(new, f"{old}.new")
            Path(f"{old}.new").rename(old)


def infer_on(channel: grpc.Channel) -> None:
    response = inference_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(REQUEST, timeout=WAIT)
    np.testing.assert_array_equal(outputs_of(response)["y"], 2 * X)


@contextlib.contextmanager
def serving(toys: Path, folder: Path, *, mutual: bool) -> Iterator[Served]:
    authority = Authority(folder / "authority")
    certificate, key = (shutil.copy(path, folder) for path in authority.issue("first", *LOCAL))
    files = {"tls_certificate": certificate, "tls_key": key} | ({"tls_client_ca": authority.ca} if mutual else {})
    with local_service(toys, "auto", **files) as service:
        yield Served(service, authority, Path(certificate), Path(key))


@pytest.fixture
def served(toys: Path, tmp_path: Path) -> Iterator[Served]:
    with serving(toys, tmp_path, mutual=False) as served:
        yield served


@pytest.fixture
def mutual(toys: Path, tmp_path: Path) -> Iterator[Served]:
    """A service that asks callers for a certificate."""
    with serving(toys, tmp_path, mutual=True) as served:
        yield served


def test_with_tls_both_ports_answer_over_tls_alone(served: Served) -> None:
    assert served.service.server.grpc_server == "aio"
    served.infer()
    status, body = served.get("/metrics")
    assert status == 200 and "inference_requests_total" in body
    with grpc.insecure_channel(served.service.address) as channel, pytest.raises(grpc.RpcError) as refused:
        infer_on(channel)
    assert isinstance(refused.value, grpc.Call) and refused.value.code() is grpc.StatusCode.UNAVAILABLE
    host, port = served.service.server.metrics_url.split("/")[2].split(":")
    with socket.create_connection((host, int(port)), WAIT) as plain:
        plain.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        with contextlib.suppress(ConnectionResetError):
            assert b"HTTP" not in plain.recv(1024)


@pytest.mark.parametrize("port", ["grpc", "metrics"])
def test_tls_1_2_is_the_oldest_version(served: Served, port: str) -> None:
    address = served.service.address if port == "grpc" else served.service.server.metrics_url.split("/")[2]

    def version(newest: ssl.TLSVersion) -> str | None:
        context = ssl.create_default_context(cafile=str(served.authority.ca))
        context.set_alpn_protocols(["h2"])
        context.set_ciphers("ALL:@SECLEVEL=0")
        context.minimum_version, context.maximum_version = ssl.TLSVersion.MINIMUM_SUPPORTED, newest
        host, number = address.split(":")
        plain = socket.create_connection((host, int(number)), WAIT)
        with context.wrap_socket(plain, server_hostname="localhost") as connection:
            return connection.version()

    assert version(ssl.TLSVersion.TLSv1_2) == "TLSv1.2"
    with pytest.warns(DeprecationWarning, match="TLSv1_1"), pytest.raises((ssl.SSLError, OSError)):
        version(ssl.TLSVersion.TLSv1_1)


def test_a_caller_without_a_certificate_of_the_ca_is_refused_but_for_probes(mutual: Served, tmp_path: Path) -> None:
    caller = mutual.authority.issue("caller", usage="clientAuth")
    mutual.infer(caller)
    assert mutual.get("/metrics", caller)[0] == 200
    stranger = Authority(tmp_path / "other").issue("stranger", usage="clientAuth")
    for refused in (None, stranger):
        with pytest.raises(grpc.RpcError) as error:
            mutual.infer(refused)
        assert isinstance(error.value, grpc.Call) and error.value.code() is grpc.StatusCode.UNAVAILABLE
    assert mutual.get("/metrics") == (403, "/metrics needs a client certificate\n")
    assert mutual.get("/livez") == (200, "live\n")
    assert mutual.get("/readyz") == (200, "ready\n")
    with pytest.raises((ssl.SSLError, ConnectionError)):
        mutual.get("/metrics", stranger)


def test_a_new_certificate_is_presented_and_open_connections_stay(served: Served) -> None:
    with served.channel() as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        assert served.presented() == "first"
        served.renew("second")
        wait_until(lambda: served.presented() == "second", "the new certificate is presented")
        assert served.get("/livez")[0] == 200
        infer_on(channel)
        assert watch.is_active()
        watch.cancel()


def test_an_invalid_new_certificate_keeps_the_old_one(served: Served) -> None:
    """The key follows later: until then the old pair is presented."""
    key = served.key.read_bytes()
    served.key.write_text("nonsense")
    time.sleep(1.5)  # three looks
    assert served.presented() == "first"
    served.infer()
    served.key.write_bytes(key)
    served.renew("second")
    wait_until(lambda: served.presented() == "second", "the valid certificate is presented")


def test_a_new_ca_of_callers_takes_the_place_of_the_old_one(mutual: Served, tmp_path: Path) -> None:
    other = Authority(tmp_path / "other")
    old, new = mutual.authority.issue("caller", usage="clientAuth"), other.issue("caller", usage="clientAuth")
    mutual.infer(old)
    trusted = mutual.authority.ca.read_bytes()

    def accepts(caller: Pair) -> bool:
        files = [trusted, caller[1].read_bytes(), caller[0].read_bytes()]
        options = [("grpc.use_local_subchannel_pool", 1)]
        with grpc.secure_channel(mutual.service.address, grpc.ssl_channel_credentials(*files), options) as channel:
            try:
                infer_on(channel)
            except grpc.RpcError:
                return False
            return True

    shutil.copy(other.ca, mutual.authority.ca)
    wait_until(lambda: accepts(new), "callers of the new CA are accepted")
    assert not accepts(old)


def test_a_client_that_never_ends_its_handshake_holds_up_no_probe(served: Served) -> None:
    host, port = served.service.server.metrics_url.split("/")[2].split(":")
    with contextlib.ExitStack() as stack:
        for _ in range(MAX_CONNECTIONS - 1):
            stack.enter_context(socket.create_connection((host, int(port))))
        began = time.monotonic()
        assert served.get("/livez") == (200, "live\n")
        assert time.monotonic() - began < 4, "it waited until silent clients were closed, after five seconds"


def test_a_failed_handshake_writes_nothing(served: Served, capfd: pytest.CaptureFixture[str]) -> None:
    host, port = served.service.server.metrics_url.split("/")[2].split(":")
    for nonsense in (b"GET / HTTP/1.0\r\n\r\n", b"\x16\x03\x01", b""):
        with socket.create_connection((host, int(port))) as plain:
            plain.sendall(nonsense)
    assert served.get("/livez")[0] == 200
    assert capfd.readouterr().err == ""


def test_curl_reads_the_metrics(mutual: Served) -> None:
    certificate, key = mutual.authority.issue("caller", usage="clientAuth")
    url = mutual.service.server.metrics_url.replace("127.0.0.1", "localhost")
    command = ["/usr/bin/env", "curl", "--silent", "--show-error", "--fail", "--noproxy", "*", "-4"]
    command += ["--cacert", str(mutual.authority.ca), "--cert", str(certificate), "--key", str(key), url]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "inference_server_info" in result.stdout
