"""Settings from flags and the environment."""

import json
from pathlib import Path

import pytest

from service.app.settings import Settings


def test_a_setting_comes_from_the_environment_or_a_flag(toys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVICE_GRPC_PORT", "9999")
    monkeypatch.setenv("SERVICE_MODEL_REPOSITORY", str(toys))
    monkeypatch.setattr("sys.argv", ["service", "--intra-op-threads", "3"])
    settings = Settings()
    assert (settings.grpc_port, settings.model_repository, settings.intra_op_threads) == (9999, toys, 3)
    assert json.loads(settings.model_dump_json())["grpc_server"] == "auto"
