"""Which gRPC server may stand where, and what is refused or logged about addresses that strangers may reach."""

from typing import Any

import pytest
from structlog.testing import capture_logs

from service.app.exposure import check_exposure, choose_grpc_server, log_exposure
from service.app.startup import CannotStart
from service.transport.grpc import native_server
from tests.support.local_service import make_settings

OPEN = "0.0.0.0"  # noqa: S104 # nothing listens there
TLS = {"tls_certificate": "tls.crt", "tls_key": "tls.key"}


def logged(**values: Any) -> list[str]:
    settings = make_settings(**values)
    check_exposure(settings)
    with capture_logs() as lines:
        log_exposure(settings, choose_grpc_server(settings))
    return [line["event"] for line in lines]


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.7.6", "localhost", "::1"])
def test_on_loopback_auto_takes_native_and_nothing_is_logged(host: str) -> None:
    assert choose_grpc_server(make_settings(host=host)).kind == "native"
    assert logged(host=host) == []


@pytest.mark.parametrize("host", [OPEN, "::", "10.1.2.3", "2001:db8::1", "gpu-7.example.org", "127.0.0.1.nip.io"])
def test_an_open_address_is_served_only_behind_an_edge_with_tls_or_if_asked_for(host: str) -> None:
    with pytest.raises(CannotStart, match=f"--host {host}: .* --tls-certificate .* --behind-edge .* --insecure "):
        check_exposure(make_settings(host=host))
    assert logged(host=host, behind_edge=True) == []
    assert logged(host=host, **TLS, tls_client_ca="ca.crt") == ["aio server chosen"]
    assert logged(host=host, **TLS) == ["aio server chosen", "open address without tokens"]
    assert logged(host=host, insecure=True, tokens_file="tokens") == ["aio server chosen", "open address without TLS"]
    assert logged(host=host, insecure=True, grpc_server="aio") == [
        "open address without TLS",
        "open address without tokens",
    ]


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"host": OPEN}, "of any size before its token is checked, and strangers may reach 0.0.0.0; put an edge"),
        ({"host": OPEN, "insecure": True}, "strangers may reach 0.0.0.0"),
        (TLS, "pygrpc-native has no TLS; leave TLS to an edge"),
        ({"host": OPEN, "behind_edge": True, **TLS}, "pygrpc-native has no TLS"),
    ],
)
def test_where_native_may_not_stand_auto_takes_aio_and_native_is_refused(values: dict[str, Any], reason: str) -> None:
    assert choose_grpc_server(make_settings(**values)).kind == "aio"
    with pytest.raises(CannotStart, match=reason):
        choose_grpc_server(make_settings(grpc_server="native", **values))


def test_behind_an_edge_native_serves_any_address() -> None:
    for setting in ("auto", "native"):
        settings = make_settings(host=OPEN, behind_edge=True, grpc_server=setting)
        assert choose_grpc_server(settings).kind == "native"


def test_without_pygrpc_native_auto_takes_aio_and_native_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.app.exposure.find_spec", lambda _: None)
    assert (
        choose_grpc_server(make_settings()).kind == choose_grpc_server(make_settings(grpc_server="aio")).kind == "aio"
    )
    assert logged() == ["aio server chosen"]
    with pytest.raises(CannotStart, match="pygrpc-native is not installed"):
        choose_grpc_server(make_settings(grpc_server="native"))


def test_a_version_of_pygrpc_native_that_bounds_messages_serves_any_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native_server, "MESSAGE_BOUND", "max_message_bytes")
    assert choose_grpc_server(make_settings(host=OPEN, grpc_server="native")).kind == "native"
    assert choose_grpc_server(make_settings(**TLS)).kind == "aio"


def test_the_metrics_port_has_an_address_of_its_own() -> None:
    with pytest.raises(CannotStart, match=r"--metrics-host 0\.0\.0\.0: "):
        check_exposure(make_settings(metrics_host=OPEN))
    assert logged(metrics_host=OPEN, insecure=True) == ["open address without TLS"]
    assert logged(host=OPEN, metrics_host="127.0.0.1", insecure=True, tokens_file="tokens") == [
        "aio server chosen",
        "open address without TLS",
    ]


def test_the_log_says_whether_tokens_are_readable_on_the_network() -> None:
    for tokens_file, readable in ((None, "data"), ("tokens", "tokens and data")):
        settings = make_settings(host=OPEN, insecure=True, grpc_server="aio", tokens_file=tokens_file)
        with capture_logs() as lines:
            log_exposure(settings, choose_grpc_server(settings))
        assert lines[0]["readable_on_the_network"] == readable
