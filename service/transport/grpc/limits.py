"""The aio server's limits, as options of gRPC's core: on messages, connections, calls and their age.

Local addresses are loopback and Unix sockets. On others the server takes no compressed messages and few calls at a time
on one connection. Limits that gRPC's core has by itself: 16 KiB of headers, three PINGs in five minutes without a call.
Not here: messages that arrive slowly (receiving.py), the native server, which has none of these (native_server.py).
"""

from service.transport.grpc.listeners import is_loopback

# Calls that gRPC holds before Python takes them. By default, gRPC cancels some at random past 1,000, with a status that
# no client retries; the limit of the batcher's queue gives a better answer.
MAX_PENDING_CALLS = 2**13
# Calls at a time on one connection. Clients with more keep the others back. Under a flood of calls that are cancelled
# at once, other callers' calls took 0.5 s with it, and without it 2.4 s, and some were cancelled.
MAX_STREAMS = 100
NO_MAX_AGE_MS = 2**31 - 1  # gRPC's value for no maximum connection age, in milliseconds
UNCOMPRESSED_ONLY = 1 << 0  # a set of algorithms, by their numbers in gRPC


def is_local(address: str) -> bool:
    """Whether only this machine reaches the address: host:port or unix:path."""
    return address.startswith("unix:") or is_loopback(address.rsplit(":", 1)[0].strip("[]"))


def server_options(
    address: str, *, max_message_bytes: int, reuse_port: bool, max_connection_age_seconds: float
) -> list[tuple[str, int]]:
    """The options of a server on the address; an age of 0 is no limit."""
    options = [
        ("grpc.so_reuseport", int(reuse_port)),  # if 0, a port in use is an error
        ("grpc.max_connection_age_ms", int(max_connection_age_seconds * 1e3) or NO_MAX_AGE_MS),
        ("grpc.server.max_pending_requests", MAX_PENDING_CALLS),
        ("grpc.server.max_pending_requests_hard_limit", MAX_PENDING_CALLS),
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_send_message_length", -1),
    ]
    if not is_local(address):
        # A gzip bomb of 1 MB takes the memory of the largest message and the time to decompress that.
        options += [
            ("grpc.compression_enabled_algorithms_bitset", UNCOMPRESSED_ONLY),
            ("grpc.max_concurrent_streams", MAX_STREAMS),
        ]
    return options
