"""The loop of the native server, with a pygrpc-native that hands over given bursts and a handler that records them."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from pygrpc_native import EVENT_CALL, EVENT_CANCEL

from service.transport.grpc import native_server
from service.transport.grpc.native_server import Event, NativeServer

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

    auth_required = False
    inline_seconds = 1.0

    def __init__(self) -> None:
        self.bursts: list[tuple[list[int], bool]] = []

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
        NativeServer("127.0.0.1:0", handler, fallback="")._run()  # type: ignore[arg-type]
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
