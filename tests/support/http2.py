"""Calls at the level of HTTP/2: a gRPC client that sends what gRPC's own do not and hangs up when told to; POST."""

import socket
import struct
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from urllib.parse import unquote

import grpc
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import DataReceived, Event, ResponseReceived, StreamEnded, StreamReset, TrailersReceived

from tests.support.http import Answer
from tests.support.waiting import WAIT

MODEL_INFER = "/inference.GRPCInferenceService/ModelInfer"
# HTTP/2's defaults, in bytes: of one frame, and of what may be sent before the server reads.
MAX_FRAME, WINDOW = 2**14, 2**16 - 1
STREAM = 1  # each connection makes one call
CODES = {code.value[0]: code for code in grpc.StatusCode}


class RawCall:
    """One call on a connection of its own. Use it as a context manager; leaving it closes the connection."""

    def __init__(self, address: str, path: str = MODEL_INFER, headers: Sequence[tuple[str, str]] = ()) -> None:
        host, port = address.rsplit(":", 1)
        self.fields: dict[bytes, bytes] = {}  # headers and trailers of the response, once status() has returned
        self._socket = socket.create_connection((host, int(port)), WAIT)
        # Sent as they are, even if they are not valid.
        self._http = H2Connection(H2Configuration(validate_outbound_headers=False, normalize_outbound_headers=False))
        self._http.initiate_connection()
        usual = {":method": "POST", ":scheme": "http", ":path": path, ":authority": address}
        usual |= {"te": "trailers", "content-type": "application/grpc"}
        self._http.send_headers(STREAM, [*usual.items(), *headers])
        self._flush()

    def __enter__(self) -> "RawCall":
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._socket.close()

    def send(self, message: bytes, *, compressed: int = 0, last: bool = True) -> "RawCall":
        """Send a message of at most WINDOW bytes; `compressed` is gRPC's flag."""
        data = struct.pack(">BI", compressed, len(message)) + message
        for start in range(0, len(data), MAX_FRAME):
            end = start + MAX_FRAME
            self._http.send_data(STREAM, data[start:end], end_stream=last and end >= len(data))
        self._flush()
        return self

    def send_part(self, size: int, *, of: int) -> "RawCall":
        """Send the first `size` bytes, zeros, of a message of `of` bytes."""
        self._http.send_data(STREAM, struct.pack(">BI", 0, of) + bytes(size))
        self._flush()
        return self

    def end(self) -> "RawCall":
        """Send no further message."""
        self._http.end_stream(STREAM)
        self._flush()
        return self

    def status(self) -> tuple[grpc.StatusCode, str]:
        """Wait for the end of the call: its status and text."""
        for event in self._events():
            if isinstance(event, ResponseReceived | TrailersReceived):
                self.fields |= dict(event.headers or ())
            if isinstance(event, StreamEnded | StreamReset):
                break
        return CODES[int(self.fields[b"grpc-status"])], unquote(self.fields.get(b"grpc-message", b"").decode())

    def await_headers(self) -> None:
        """Wait for the response's first headers."""
        next(event for event in self._events() if isinstance(event, ResponseReceived))

    def reset(self) -> None:
        """Cancel the call, as gRPC's clients do."""
        self._http.reset_stream(STREAM, ErrorCodes.CANCEL)
        self._flush()

    def hang_up(self) -> None:
        """Drop the connection, with what the server still sends."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()

    def _events(self) -> Iterator[Event]:
        while received := self._socket.recv(65536):
            yield from self._http.receive_data(received)
            self._flush()

    def _flush(self) -> None:
        self._socket.sendall(self._http.data_to_send())


def post(address: str, path: str, body: bytes, headers: Mapping[str, str]) -> Answer:
    """POST a body of at most MAX_FRAME bytes on a connection of its own."""
    host, port = address.rsplit(":", 1)
    connection = H2Connection(H2Configuration(header_encoding="utf-8"))
    connection.initiate_connection()
    usual = {":method": "POST", ":scheme": "http", ":path": path, ":authority": address}
    connection.send_headers(STREAM, [*usual.items(), *headers.items()])
    connection.send_data(STREAM, body, end_stream=True)
    fields: dict[str, str] = {}
    content = b""
    with socket.create_connection((host, int(port)), WAIT) as plain:
        plain.sendall(connection.data_to_send())
        while received := plain.recv(65536):
            for event in connection.receive_data(received):
                if isinstance(event, ResponseReceived | TrailersReceived):
                    fields |= {str(name): str(value) for name, value in event.headers or ()}
                elif isinstance(event, DataReceived):
                    content += event.data or b""
                elif isinstance(event, StreamEnded):
                    return Answer(int(fields[":status"]), fields, content)
            plain.sendall(connection.data_to_send())
    raise AssertionError(f"the connection ended without an answer: {fields}")
