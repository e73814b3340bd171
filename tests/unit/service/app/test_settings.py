"""Settings from flags and the environment, and the choice of the gRPC server."""

import json
from pathlib import Path

import pytest

from service.app.startup import CannotStart, choose_grpc_server


def test_auto_falls_back_to_aio_and_native_must_be_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_grpc_server("auto") == "native"
    monkeypatch.setattr("service.app.startup.find_spec", lambda _: None)
    assert choose_grpc_server("auto") == choose_grpc_server("aio") == "aio"
    with pytest.raises(CannotStart, match="pygrpc-native is not installed"):
        choose_grpc_server("native")


def test_a_setting_comes_from_the_environment_or_a_flag(toys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from service.app.settings import Settings

    monkeypatch.setenv("SERVICE_GRPC_PORT", "9999")
    monkeypatch.setenv("SERVICE_MODEL_REPOSITORY", str(toys))
    monkeypatch.setattr("sys.argv", ["service", "--intra-op-threads", "3"])
    settings = Settings()
    assert (settings.grpc_port, settings.model_repository, settings.intra_op_threads) == (9999, toys, 3)
    assert json.loads(settings.model_dump_json())["grpc_server"] == "auto"
