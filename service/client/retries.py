"""Retries of calls that a full queue refused: RESOURCE_EXHAUSTED with google.rpc.RetryInfo, after the delay it names.

gRPC's retryPolicy knows codes alone, and a message that is too large, which no retry helps, has the same code.
Not here: UNAVAILABLE, which gRPC retries (SERVICE_CONFIG).
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import grpc
from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import DecodeError
from google.protobuf.unknown_fields import UnknownFieldSet

DETAILS_KEY = "grpc-status-details-bin"
RETRY_INFO = "type.googleapis.com/google.rpc.RetryInfo"
# Numbers of the fields google.rpc.Status.details and google.rpc.RetryInfo.retry_delay. They are read without their
# messages, for which alone the client would need another package (googleapis-common-protos).
DETAILS, RETRY_DELAY = 3, 1
LENGTH_DELIMITED = 2  # the wire type of messages

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Retries:
    """When to call again. The n-th delay, in seconds, is what the server says, but at least `shortest` times 2ⁿ⁻¹.

    Up to half of it is added at random, so that refused callers do not come back together.
    """

    attempts: int = 5
    shortest: float = 0.01
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    random: Callable[[], float] = random.random

    def call(self, method: Callable[[float], Answer], timeout: float) -> Answer:
        """Call `method` with the seconds that are left of `timeout`, until it is answered or must not be retried.

        Raises:
            grpc.RpcError: the error of the last attempt. No attempt is made that would begin after `timeout`.
        """
        limit = self.clock() + timeout
        attempt = 0
        while True:
            try:
                return method(limit - self.clock())
            except grpc.RpcError as error:
                asked = retry_delay(error)
                if asked is None or attempt + 1 >= self.attempts:
                    raise
                delay = max(asked, self.shortest * 2**attempt) * (1 + self.random() / 2)
                if delay >= limit - self.clock():
                    raise
            self.sleep(delay)
            attempt += 1


def retry_delay(error: grpc.RpcError) -> float | None:
    """The seconds that the RetryInfo of a RESOURCE_EXHAUSTED asks to wait; None for any other error."""
    if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
        return None
    metadata = error.trailing_metadata() or ()
    status = next((item.value for item in metadata if item.key == DETAILS_KEY), b"")
    try:
        details = map(Any.FromString, _messages(status, DETAILS))
        infos = [detail.value for detail in details if detail.type_url == RETRY_INFO]
        delays = [Duration.FromString(delay) for info in infos for delay in _messages(info, RETRY_DELAY)]
    except DecodeError:
        return None
    # Protobuf leaves out a delay of 0.
    return sum(delay.ToNanoseconds() for delay in delays) / 1e9 if infos else None


def _messages(message: bytes, number: int) -> Iterator[bytes]:
    """The serialised messages in the field with that number of a serialised message of any type."""
    fields = UnknownFieldSet(Empty.FromString(message))
    for index in range(len(fields)):
        if (fields[index].field_number, fields[index].wire_type) == (number, LENGTH_DELIMITED):
            yield fields[index].data
