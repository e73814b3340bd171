"""The loop of the native server, with a pygrpc-native that hands over given bursts and a handler that records them."""

import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from pygrpc_native import EVENT_CALL, EVENT_CANCEL, NativeGrpcFront

from service.core.auth import FULL_ACCESS, Access
from service.transport.grpc import native_server
from service.transport.grpc.native_server import Event, NativeServer

KEYWORD = inspect.Parameter.KEYWORD_ONLY
# Serves bursts, and returns those that were submitted: their call ids, and whether the thread was lent.
Serve = Callable[..., list[tuple[list[int], bool]]]


def call(call_id: int) -> Event:
    return EVENT_CALL, call_id, 0, b"request", "the caller's address", None


def cancellation(call_id: int) -> Event:
    return EVENT_CANCEL, call_id, 0, None, None, None


class FakeFront:
    """Hands over these bursts, then is closed."""

    bound_port = 8001

    def __init__(self, bursts: Sequence[Sequence[Event]]) -> None:
        self._bursts: Iterator[Sequence[Event]] = iter(bursts)

    def set_fallback(self, path: str) -> None:
        """Nothing is passed on."""

    def recv_batch_details(self, *_: object) -> Sequence[Event] | None:
        return next(self._bursts, None)


class FakeHandler:
    """Records the call ids of each burst that is submitted, and whether the thread is lent. A lent thread receives."""

    inline_seconds = 1.0

    def __init__(self) -> None:
        self.bursts: list[tuple[list[int], bool]] = []

    def authorize(self, _: object) -> Access:
        return FULL_ACCESS

    def decode(self, _payload: bytes, _sink: object, call_id: int, **_: Any) -> "FakeRequest":
        return FakeRequest(call_id)

    def submit_burst(self, requests: Sequence["FakeRequest"], receive: Callable[[], bool] | None) -> None:
        self.bursts.append(([request.call_id for request in requests], receive is not None))
        if receive:
            receive()


class FakeRequest:
    """A decoded call."""

    def __init__(self, call_id: int) -> None:
        self.call_id = call_id

    def count_cancelled(self) -> None:
        """Not counted here."""

    def cancel(self) -> None:
        """It is not queued."""


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Serve:
    """Serves these bursts; returns those that were submitted."""

    def serve(*bursts: Sequence[Event]) -> list[tuple[list[int], bool]]:
        monkeypatch.setattr(native_server, "NativeGrpcFront", lambda *_, **__: FakeFront(bursts))
        handler = FakeHandler()
        NativeServer("127.0.0.1:0", handler, fallback="", max_message_bytes=1)._run()  # type: ignore[arg-type]
        return handler.bursts

    return serve


def test_calls_that_arrive_while_the_thread_is_lent_do_not_lend_it_again(
    serve: Serve,
) -> None:
    """The version that they go to may have replaced the one that runs here, whose queue would wait for theirs."""
    assert serve([call(1)], [call(2)]) == [([1], True), ([2], False)]


def test_a_call_that_arrives_with_its_cancellation_is_not_computed(
    serve: Serve,
) -> None:
    assert serve([call(1), call(2), cancellation(1)]) == [([2], True)]


@pytest.mark.parametrize(
    ("parameters", "bound"),
    [
        (["target", "max_concurrent_streams", "max_metadata_size"], ""),
        (["target", "max_metadata_size", "max_message_bytes"], "max_message_bytes"),
        (["max_encoding_message_size", "max_decoding_message_size"], "max_decoding_message_size"),
        (["target", "max_receive_message_length"], "max_receive_message_length"),
    ],
)
def test_a_bound_on_messages_is_found_by_its_parameter(parameters: list[str], bound: str) -> None:
    class Front:
        __signature__ = inspect.Signature([inspect.Parameter(name, KEYWORD) for name in parameters])

    assert native_server.message_bound(Front) == bound


def test_the_installed_pygrpc_native_bounds_no_messages() -> None:
    """If this fails, it has learnt to: see that its bound holds, then drop the rule for open addresses."""
    assert "max_metadata_size" in inspect.signature(NativeGrpcFront).parameters
    assert native_server.MESSAGE_BOUND == ""


def test_where_pygrpc_native_bounds_messages_it_gets_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    options: dict[str, object] = {}

    def front(*_: object, **given: object) -> FakeFront:
        options.update(given)
        return FakeFront([])

    monkeypatch.setattr(native_server, "NativeGrpcFront", front)
    monkeypatch.setattr(native_server, "MESSAGE_BOUND", "max_request_bytes")
    NativeServer("127.0.0.1:0", FakeHandler(), fallback="", max_message_bytes=1234)  # type: ignore[arg-type]
    assert options["max_request_bytes"] == 1234
