"""gRPC-Web as a browser speaks it, framed by hand: over HTTP/1.1 or HTTP/2, binary or as text."""

import base64
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import unquote

import grpc

from tests.support.http import Answer, ask
from tests.support.http2 import CODES, post

TRAILERS = 0x80  # flag of the frame that holds grpc-status and grpc-message


@dataclass(frozen=True)
class WebAnswer:
    """A call's answer: HTTP's part, the messages, and the status with its text."""

    http: Answer
    messages: list[bytes]
    code: grpc.StatusCode
    text: str


def web_call(
    address: str,
    path: str,
    message: bytes,
    *,
    text: bool = False,
    http2: bool = False,
    headers: Mapping[str, str] | None = None,
) -> WebAnswer:
    """Call a method with one message; `text` is the form in base64."""
    body = struct.pack(">BI", 0, len(message)) + message
    kind = "application/grpc-web-text" if text else "application/grpc-web+proto"
    sent = {"content-type": kind, "accept": kind, "x-grpc-web": "1", **(headers or {})}
    if text:
        body = base64.b64encode(body)
    answer = post(address, path, body, sent) if http2 else ask(address, "POST", path, body, sent)
    messages, trailers = _unframed(_decoded(answer.body) if text else answer.body)
    fields = answer.headers | trailers  # without a message, the status is in the headers
    return WebAnswer(answer, messages, CODES[int(fields["grpc-status"])], unquote(fields.get("grpc-message", "")))


def _decoded(body: bytes) -> bytes:
    """The bytes of base64 that was encoded in pieces: four characters at a time, for padding may be in the middle."""
    return b"".join(base64.b64decode(body[start : start + 4]) for start in range(0, len(body), 4))


def _unframed(body: bytes) -> tuple[list[bytes], dict[str, str]]:
    messages: list[bytes] = []
    trailers: dict[str, str] = {}
    while body:
        flag, length = struct.unpack(">BI", body[:5])
        content, body = body[5 : 5 + length], body[5 + length :]
        if flag & TRAILERS:
            pairs = [line.partition(":") for line in content.decode().splitlines()]
            trailers = {name.strip().lower(): value.strip() for name, _, value in pairs}
        else:
            messages.append(content)
    return messages, trailers
