"""What is said of connections that fail, by gRPC's text; tests/integration/test_client_tls.py has real ones."""

from typing import Any

import grpc
import pytest

from service.client.hints import hint_of
from service.client.tls import Tls

LAST = "connections to all backends failing; last error: UNKNOWN: ipv4:10.0.0.1:1: "
CALLER = Tls(certificate="caller.crt", key="caller.key")


class Failed(grpc.RpcError):
    def __init__(self, details: str | None, code: Any = grpc.StatusCode.UNAVAILABLE) -> None:
        self._details, self._code = details, code

    def code(self) -> Any:
        return self._code

    def details(self) -> str | None:
        return self._details


@pytest.mark.parametrize(
    ("text", "tls", "hint"),
    [
        ("Socket closed", None, "if it uses TLS, connect with --tls"),
        ("Socket closed", Tls(), "may ask for a client's certificate"),
        ("Unwrap failed (TSI_DATA_CORRUPTED)", Tls(), "may ask for a client's certificate"),
        ("recvmsg:Connection reset by peer", CALLER, "may not accept this client's certificate"),
        ("SSL_ERROR_SSL: WRONG_VERSION_NUMBER", Tls(), "does not use TLS"),
        ("CERTIFICATE_VERIFY_FAILED: unable to get local issuer certificate: OK", Tls(), "--tls-ca"),
        ("CERTIFICATE_VERIFY_FAILED: certificate has expired: OK", Tls(), "has expired"),
        ("CERTIFICATE_VERIFY_FAILED: certificate is not yet valid: OK", Tls(), "compare the clocks"),
        ("Hostname Verification Check failed.", Tls(), "--tls-server-name"),
    ],
)
def test_a_failed_connection_has_a_hint(text: str, tls: Tls | None, hint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("grpc_proxy", "https_proxy", "http_proxy", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    assert hint in hint_of(Failed(LAST + text), "10.0.0.1:1", tls)


def test_a_proxy_that_was_asked_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("grpc_proxy", "http://user:secret@proxy:3128")
    for name in ("no_grpc_proxy", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    hint = hint_of(Failed(LAST + "Connection refused"), "example.com:1", None)
    assert "grpc_proxy, proxy:3128" in hint and "no_proxy" in hint and "secret" not in hint


@pytest.mark.parametrize(
    "error",
    [
        Failed(LAST + "Connection refused"),
        Failed("Socket closed"),  # of a connection that stood: the server stopped
        Failed(None),
        Failed(LAST + "Socket closed", grpc.StatusCode.DEADLINE_EXCEEDED),
    ],
)
def test_other_errors_have_none(error: Failed, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("grpc_proxy", "https_proxy", "http_proxy", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    assert hint_of(error, "10.0.0.1:1", None) == ""
