"""Settings from flags and the environment."""

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from service.app.settings import Settings
from tests.support.local_service import make_settings


def test_a_setting_comes_from_the_environment_or_a_flag(toys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVICE_GRPC_PORT", "9999")
    monkeypatch.setenv("SERVICE_MODEL_REPOSITORY", str(toys))
    monkeypatch.setattr("sys.argv", ["service", "--intra-op-threads", "3"])
    settings = Settings()
    assert (settings.grpc_port, settings.model_repository, settings.intra_op_threads) == (9999, toys, 3)
    assert json.loads(settings.model_dump_json())["grpc_server"] == "auto"


def test_an_empty_environment_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compose passes `${X:-}`."""
    for name in ("GRPC_PORT", "BEHIND_EDGE", "TLS_CERTIFICATE", "METRICS_HOST"):
        monkeypatch.setenv(f"SERVICE_{name}", "")
    settings = make_settings()
    assert (settings.grpc_port, settings.behind_edge) == (8001, False)
    assert settings.tls_certificate is None
    assert settings.metrics_host is None


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"tls_certificate": "tls.crt"}, "give both or neither"),
        ({"tls_key": "tls.key"}, "give both or neither"),
        ({"tls_client_ca": "ca.crt"}, "--tls-client-ca needs TLS"),
    ],
)
def test_tls_needs_a_certificate_and_its_key(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        make_settings(**values)
