"""The edge's settings: the environment, what is refused, and the warnings."""

import pytest

from deploy.edge.errors import WrongSetting
from deploy.edge.settings import MIB, Settings


def test_without_an_environment_the_defaults_count() -> None:
    assert Settings.from_environment({}) == Settings()


def test_empty_is_as_good_as_unset() -> None:
    empty = {f"EDGE_{name.upper()}": value for name in Settings.__dataclass_fields__ for value in ("", " ")}
    assert Settings.from_environment(empty) == Settings()


def test_each_setting_is_read_as_what_it_is() -> None:
    settings = Settings.from_environment(
        {
            "EDGE_UPSTREAM": " [::1]:9000 ",
            "EDGE_MAX_MESSAGE_BYTES": str(MIB),
            "EDGE_DRAIN_SECONDS": "0.5",
            "EDGE_TLS_FOLDER": "/tls",
            "EDGE_CLIENT_CERTIFICATES": "required",
            "SERVICE_PORT": "1",
            "EDGE_OF_SOMETHING_ELSE": "1",
        }
    )
    assert settings == Settings(
        upstream="[::1]:9000",
        max_message_bytes=MIB,
        drain_seconds=0.5,
        tls_folder="/tls",
        client_certificates="required",
    )


WRONG = [
    ("PORT", "abc", "expected a number, got 'abc'"),
    ("PORT", "0", "expected 1 to 65535, got 0"),
    ("OPERATORS_PORT", "65536", "expected 1 to 65535, got 65536"),
    ("ADMIN_PORT", "-1", "expected 1 to 65535, got -1"),
    ("MAX_MESSAGE_BYTES", "64MiB", "expected a number, got '64MiB'"),
    ("MAX_MESSAGE_BYTES", "0", "expected 1 to 4294967290, got 0"),
    ("MAX_MESSAGE_BYTES", "-1", "expected 1 to 4294967290, got -1"),
    ("MAX_MESSAGE_BYTES", "4294967291", "got 4294967291"),
    ("MAX_CONNECTIONS", "0", "expected 1 to 1000000, got 0"),
    ("ACCESS_LOG_PERCENT", "101", "expected 0 to 100, got 101.0"),
    ("ACCESS_LOG_PERCENT", "nan", "expected 0 to 100, got nan"),
    ("HEAP_BYTES", "-5", "got -5"),
    ("DRAIN_SECONDS", "inf", "expected 0 to 3600, got inf"),
    ("DRAIN_SECONDS", "-3", "expected 0 to 3600, got -3.0"),
    ("HOST", "localhost", "expected an IP address to listen on, got 'localhost'"),
    ("UPSTREAM", "service", "expected HOST:PORT, got 'service'"),
    ("UPSTREAM", ":8001", "expected HOST:PORT"),
    ("UPSTREAM", "::1:8001", "expected HOST:PORT"),
    ("UPSTREAM", "service:65536", "expected HOST:PORT"),
    ("UPSTREAM", "http://service:8001", "expected HOST:PORT"),
    ("UPSTREAM", 'a"b:8001', "expected HOST:PORT"),
    ("CLIENT_CERTIFICATES", "yes", "expected required or nothing, got 'yes'"),
    ("CLIENT_CERTIFICATES", "required", "set EDGE_TLS_FOLDER too"),
    ("ALLOWED_ORIGINS", "(", "expected a regular expression"),
]


@pytest.mark.parametrize(("name", "value", "reason"), WRONG)
def test_a_wrong_value_is_refused_in_one_line_that_names_it(name: str, value: str, reason: str) -> None:
    with pytest.raises(WrongSetting) as caught:
        Settings.from_environment({f"EDGE_{name}": value})
    text = str(caught.value)
    assert text.startswith(f"EDGE_{name}") and reason in text and "\n" not in text


@pytest.mark.parametrize("address", ["", "localhost", "127.0.0.1", "127.1.2.3", "::1", "[::1]"])
def test_on_loopback_there_is_nothing_to_warn_of(address: str) -> None:
    assert Settings(published_on=address).warnings() == []


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "10.0.0.3", "1270.0.0.1", "localhost.example.com"])  # noqa: S104
def test_an_open_address_without_tokens_or_tls_is_warned_of(address: str) -> None:
    tokens, tls = Settings(published_on=address).warnings()
    assert address in tokens and "without tokens" in tokens and "TOKENS_FOLDER" in tokens
    assert address in tls and "without TLS" in tls
    assert Settings(published_on=address, tokens="yes").warnings() == [tls]
    assert Settings(published_on=address, tls_folder="/tls").warnings() == [tokens]
    assert Settings(published_on=address, tokens="yes", tls_folder="/tls").warnings() == []


def test_an_open_address_is_served_without_tls_only_if_that_is_wanted() -> None:
    environment = {"EDGE_PUBLISHED_ON": "192.0.2.1"}
    with pytest.raises(WrongSetting, match=r"without TLS: set TLS_FOLDER, or GRPC_INSECURE=1"):
        Settings.from_environment(environment)
    assert Settings.from_environment(environment | {"EDGE_INSECURE": "1"}).is_open
    assert Settings.from_environment(environment | {"EDGE_TLS_FOLDER": "/tls"}).is_open
