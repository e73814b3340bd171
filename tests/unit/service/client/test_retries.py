"""The client's retries of a full queue: when, how often, and with which waits. No test waits: the clock is fake."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import grpc
import pytest

from service.client.retries import DETAILS_KEY, Retries
from service.core.errors import Draining, InvalidArgument, MessageTooLarge, QueueFull, ServiceError


class Metadatum(NamedTuple):
    key: str
    value: str | bytes


class Refused(grpc.RpcError):
    """The error of a call, as a client gets it from gRPC."""

    def __init__(self, code: grpc.StatusCode, metadata: Sequence[tuple[str, str | bytes]]) -> None:
        self._code = code
        self._metadata = [Metadatum(key, value) for key, value in metadata]

    def code(self) -> grpc.StatusCode:
        return self._code

    def trailing_metadata(self) -> Any:
        return self._metadata


def refused(error: ServiceError) -> Refused:
    return Refused(error.code, error.trailing_metadata())


def full_queue(retry_after: float) -> Refused:
    return refused(QueueFull(16, 16, retry_after))


OTHER_DETAIL = InvalidArgument("x", "wrong").trailing_metadata()[0][1]


class Server:
    """Fails the first calls with these errors, and answers the next; a call takes no time, and a wait none of ours."""

    def __init__(self, *errors: Refused) -> None:
        self.errors = list(errors)
        self.now = 100.0
        self.timeouts: list[float] = []
        self.waits: list[float] = []

    def call(self, seconds_left: float) -> str:
        self.timeouts.append(seconds_left)
        if self.errors:
            raise self.errors.pop(0)
        return "answer"

    def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now += seconds

    def retries(self, random: float = 0.0, **options: Any) -> Retries:
        return Retries(clock=lambda: self.now, sleep=self.sleep, random=lambda: random, **options)


def test_a_full_queue_is_tried_again_after_the_delay_that_the_server_names() -> None:
    server = Server(full_queue(0.25), full_queue(0.5))
    assert server.retries().call(server.call, timeout=10.0) == "answer"
    assert server.waits == [0.25, 0.5]
    assert server.timeouts == [10.0, 9.75, 9.25], "the timeout is not that of the call with its retries"


def test_a_delay_of_nothing_is_a_short_one_that_doubles() -> None:
    server = Server(*[full_queue(0.0)] * 4)
    assert server.retries().call(server.call, timeout=10.0) == "answer"
    assert server.waits == [0.01, 0.02, 0.04, 0.08]


def test_up_to_half_of_a_delay_is_added_at_random() -> None:
    server = Server(full_queue(1.0))
    server.retries(random=0.5).call(server.call, timeout=10.0)
    assert server.waits == [1.25]


def test_the_error_comes_as_it_came_after_the_last_attempt() -> None:
    errors = [full_queue(0.1) for _ in range(9)]
    server = Server(*errors)
    with pytest.raises(Refused) as caught:
        server.retries(attempts=3).call(server.call, timeout=10.0)
    assert caught.value is errors[2]
    assert server.waits == [0.1, 0.1]


def test_a_delay_that_outlasts_the_timeout_is_not_waited_for() -> None:
    errors = [full_queue(0.75), full_queue(0.75)]
    server = Server(*errors)
    with pytest.raises(Refused) as caught:
        server.retries().call(server.call, timeout=1.0)
    assert caught.value is errors[1]
    assert server.waits == [0.75] and server.timeouts == [1.0, 0.25]


@pytest.mark.parametrize(
    "error",
    [
        refused(MessageTooLarge(2, 1)),  # the same code
        refused(Draining()),  # has RetryInfo, and gRPC retries it
        refused(InvalidArgument("x", "wrong")),
        Refused(grpc.StatusCode.RESOURCE_EXHAUSTED, [("retry-after", "1")]),
        *[
            Refused(grpc.StatusCode.RESOURCE_EXHAUSTED, [(DETAILS_KEY, details)])
            for details in (
                b"",
                b"\xff",
                b"\x1a\x01\x01",
                b"\x18\x01",
                InvalidArgument("x", "").trailing_metadata()[0][1],
            )
        ],
    ],
)
def test_any_other_error_is_not_tried_again(error: Refused) -> None:
    server = Server(error)
    with pytest.raises(Refused) as caught:
        server.retries().call(server.call, timeout=10.0)
    assert caught.value is error and server.waits == []
