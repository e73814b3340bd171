"""The error of a call as its caller sees it."""

from typing import Any

import grpc
from google.rpc.error_details_pb2 import BadRequest, RetryInfo
from grpc_status import rpc_status


class Refusal:
    """The error of a call: its status, its text and its rich details."""

    def __init__(self, error: BaseException | None) -> None:
        assert isinstance(error, grpc.RpcError) and isinstance(error, grpc.Call)
        self.code: grpc.StatusCode = error.code()
        self.text: str = error.details() or ""
        self._status: Any = rpc_status.from_call(error)

    def detail(self, kind: type[Any]) -> Any:
        """The google.rpc detail, which must be of that kind."""
        assert self._status is not None, "no rich details"
        detail = kind()
        assert self._status.details[0].Unpack(detail)
        return detail

    def fields(self) -> list[str]:
        """The fields that the BadRequest detail names."""
        return [violation.field for violation in self.detail(BadRequest).field_violations]

    def retry_seconds(self) -> float:
        """The delay of the RetryInfo detail."""
        return float(self.detail(RetryInfo).retry_delay.ToNanoseconds() / 1e9)
