"""The choice of the gRPC server."""

import pytest

from service.app.startup import CannotStart, choose_grpc_server


def test_auto_falls_back_to_aio_and_native_must_be_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_grpc_server("auto") == "native"
    monkeypatch.setattr("service.app.startup.find_spec", lambda _: None)
    assert choose_grpc_server("auto") == choose_grpc_server("aio") == "aio"
    with pytest.raises(CannotStart, match="pygrpc-native is not installed"):
        choose_grpc_server("native")
