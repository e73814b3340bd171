"""The aio server's options on local addresses and on others."""

import pytest

from service.transport.grpc.limits import MAX_STREAMS, is_local, server_options


@pytest.mark.parametrize(
    "address", ["unix:/run/grpc.sock", "127.0.0.1:8001", "127.1.2.3:0", "[::1]:8001", "localhost:1"]
)
def test_loopback_and_unix_sockets_are_local(address: str) -> None:
    assert is_local(address)


@pytest.mark.parametrize("address", ["0.0.0.0:8001", "[::]:8001", "10.0.0.1:8001", "service:8001", "localhost.evil:1"])
def test_any_other_address_is_not_local(address: str) -> None:
    assert not is_local(address)


@pytest.mark.parametrize(("address", "bounded"), [("127.0.0.1:8001", False), ("0.0.0.0:8001", True)])
def test_only_addresses_that_strangers_reach_refuse_compression_and_bound_calls(address: str, bounded: bool) -> None:
    options = dict(server_options(address, max_message_bytes=1024, reuse_port=False, max_connection_age_seconds=0.0))
    assert options["grpc.max_receive_message_length"] == 1024
    assert (options.get("grpc.max_concurrent_streams") == MAX_STREAMS) is bounded
    assert (options.get("grpc.compression_enabled_algorithms_bitset") == 1) is bounded
