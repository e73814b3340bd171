"""One HTTP/2 connection that sends any frame, valid or not, and notes how its calls and itself end.

It keeps to the server's flow control, because a server closes the connection of a client that does not. Not here: what
to send (bodies.py, floods.py).
"""

import asyncio
import contextlib
import ssl
import struct
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import grpc
from hpack import Decoder, Encoder, HPACKError

MODEL_INFER = "/inference.GRPCInferenceService/ModelInfer"
STREAM_INFER = "/inference.GRPCInferenceService/ModelStreamInfer"
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
END_STREAM = ACK = 0x1
END_HEADERS = 0x4
INITIAL_WINDOW_SIZE = 4  # a setting
MAX_FRAME, WINDOW = 2**14, 2**16 - 1  # HTTP/2's defaults, in bytes
CODES = {code.value[0]: code.name for code in grpc.StatusCode}
NO_ANSWER = "no answer"


@dataclass(frozen=True)
class Address:
    """Where to attack, with which `authorization` ("" for none), and, if the port has TLS, the file of its CA."""

    host: str
    port: int
    authorization: str = ""
    ca: str = ""

    def tls(self) -> ssl.SSLContext | None:
        """The client's side of TLS, if the port has it."""
        if not self.ca:
            return None
        context = ssl.create_default_context(cafile=self.ca)
        context.set_alpn_protocols(["h2"])
        context.check_hostname = False
        return context


class Connection(asyncio.Protocol):
    """A connection; `calls` has the end of each call by stream, `end` that of the connection."""

    def __init__(self, address: Address) -> None:
        self.calls: dict[int, str] = {}
        self.end = ""
        self.closed = asyncio.Event()
        self._address = address
        self._windows: dict[int, int] = {}
        self._window, self._initial_window = WINDOW, WINDOW
        self._received = bytearray()
        self._changed = asyncio.Event()  # a window grew, the transport took what it had, or a call ended
        self._writable = True
        self._decoder, self._encoder = Decoder(), Encoder()
        self._stream = -1

    @classmethod
    async def open(cls, address: Address, *, speaks: bool = True) -> "Connection":
        """Connect, and unless `speaks` is false send the preface.

        Raises:
            OSError: the server does not accept.
        """
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(
            lambda: cls(address), address.host, address.port, ssl=address.tls()
        )
        if speaks:
            connection.send(PREFACE + frame(SETTINGS))
        return connection

    def send(self, data: bytes) -> None:
        """Send bytes as they are, if the connection is open."""
        if not self._transport.is_closing():
            self._transport.write(data)

    async def drained(self) -> None:
        """Wait until the server takes more bytes, or the connection is closed."""
        while not (self._writable or self._transport.is_closing()):
            await self._wait()
        await asyncio.sleep(0)

    def stop_reading(self) -> None:
        """Read no more from the socket."""
        if self._transport.is_reading():
            self._transport.pause_reading()

    def close(self) -> None:
        """Drop the connection."""
        if not self.closed.is_set():
            self._transport.abort()

    def call(self, path: str = MODEL_INFER, headers: Sequence[tuple[str, str]] = (), *, end: bool = False) -> int:
        """Send the headers of a call; its stream."""
        self._stream += 2
        block = self.block(path, headers)
        self.calls[self._stream] = NO_ANSWER
        self._windows[self._stream] = self._initial_window
        flags = END_STREAM * end
        pieces = [block[start : start + MAX_FRAME] for start in range(0, len(block), MAX_FRAME)]
        for index, piece in enumerate(pieces):
            last = END_HEADERS * (index == len(pieces) - 1)
            self.send(frame(CONTINUATION if index else HEADERS, last | (0 if index else flags), self._stream, piece))
        return self._stream

    def block(self, path: str = MODEL_INFER, headers: Sequence[tuple[str, str]] = ()) -> bytes:
        """The headers of a call in HPACK."""
        usual = {":method": "POST", ":scheme": "https" if self._address.ca else "http", ":path": path}
        usual |= {":authority": "localhost", "te": "trailers", "content-type": "application/grpc"}
        if self._address.authorization:
            usual["authorization"] = self._address.authorization
        encoded: bytes = self._encoder.encode([*usual.items(), *headers], huffman=False)
        return encoded

    async def body(self, stream: int, data: bytes, *, end: bool = False) -> bool:
        """Send data as the windows allow. Returns whether all of it was sent before the call ended."""
        view = memoryview(data)
        while view and not self.ended(stream):
            size = min(self._window, self._windows[stream], MAX_FRAME, len(view))
            if size <= 0 or not self._writable:
                await self._wait()
                continue
            self.send(frame(DATA, END_STREAM * (end and size == len(view)), stream, bytes(view[:size])))
            self._window -= size
            self._windows[stream] -= size
            view = view[size:]
        return not view

    def ended(self, stream: int = 0) -> bool:
        """Whether the call, or the connection, has ended."""
        return self.calls.get(stream, NO_ANSWER) != NO_ANSWER or self._transport.is_closing()

    async def finished(self, seconds: float) -> None:
        """Wait until every call has ended, for at most `seconds`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not all(map(self.ended, self.calls)):
                    await self._wait()

    def outcomes(self) -> Counter[str]:
        """How its calls ended; a connection that ended counts where a call has no other end."""
        return Counter(self.end or end if end == NO_ANSWER else end for end in self.calls.values() or [NO_ANSWER])

    async def _wait(self) -> None:
        self._changed.clear()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._changed.wait(), 0.5)

    # --- asyncio.Protocol ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.set_write_buffer_limits(2**18)

    def connection_lost(self, error: Exception | None) -> None:
        self.end = self.end or "closed"
        self.closed.set()
        self._changed.set()

    def pause_writing(self) -> None:
        self._writable = False

    def resume_writing(self) -> None:
        self._writable = True
        self._changed.set()

    def data_received(self, data: bytes) -> None:
        self._received += data
        while len(self._received) >= 9:
            length = int.from_bytes(self._received[:3])
            if len(self._received) < 9 + length:
                return
            kind, flags, stream = struct.unpack(">BBL", self._received[3:9])
            payload = bytes(self._received[9 : 9 + length])
            del self._received[: 9 + length]
            self._take(kind, flags, stream, payload)

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        match kind:
            case 4 if not flags & ACK:
                self._take_settings(payload)
            case 6 if not flags & ACK:
                self.send(frame(PING, ACK, 0, payload))
            case 8:
                grown = int.from_bytes(payload)
                if stream:
                    self._windows[stream] = self._windows.get(stream, 0) + grown
                else:
                    self._window += grown
            case 1:
                self._take_headers(stream, payload)
            case 3:
                self._end(stream, f"RST_STREAM {int.from_bytes(payload)}")
            case 7:
                text = payload[8:].decode(errors="replace")[:40]
                self.end = f"GOAWAY {int.from_bytes(payload[4:8])} {text}".strip()
        self._changed.set()

    def _take_settings(self, payload: bytes) -> None:
        for key, value in struct.iter_unpack(">HL", payload):
            if key == INITIAL_WINDOW_SIZE:
                grown, self._initial_window = value - self._initial_window, value
                self._windows = {stream: window + grown for stream, window in self._windows.items()}
        self.send(frame(SETTINGS, ACK))

    def _take_headers(self, stream: int, block: bytes) -> None:
        with contextlib.suppress(HPACKError):
            fields = {str(name): str(value) for name, value in self._decoder.decode(block)}
            if "grpc-status" in fields:
                self._end(stream, CODES[int(fields["grpc-status"])])
            elif fields.get(":status", "200") != "200":
                self._end(stream, f"HTTP {fields[':status']}")

    def _end(self, stream: int, how: str) -> None:
        if self.calls.get(stream) == NO_ANSWER:
            self.calls[stream] = how


def frame(kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"") -> bytes:
    """One frame."""
    return len(payload).to_bytes(3) + struct.pack(">BBL", kind, flags, stream) + payload


def message_header(size: int, *, compressed: bool = False) -> bytes:
    """What precedes a gRPC message of `size` bytes."""
    return struct.pack(">BI", compressed, size)
