"""HTTP requests: GET of a URL, and any request with all of its answer."""

import contextlib
import http.client
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.error import HTTPError
from urllib.request import urlopen

from tests.support.waiting import WAIT


def get(url: str, timeout: float = WAIT) -> tuple[int, str]:
    """Status and body of a response, of an error too."""
    try:
        with urlopen(url, timeout=timeout) as response:
            return int(response.status), response.read().decode()
    except HTTPError as error:
        with error:
            return error.code, error.read().decode()


@dataclass(frozen=True)
class Answer:
    """A response; the names of the headers are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes


def ask(
    address: str,
    method: str,
    path: str,
    body: bytes = b"",
    headers: Mapping[str, str] | None = None,
    *,
    source: str = "127.0.0.1",
) -> Answer:
    """Send a request over HTTP/1.1 on a connection of its own, from the address `source`. The path is sent as it is."""
    connection = http.client.HTTPConnection(address, timeout=WAIT, source_address=(source, 0))
    try:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # answered before the whole body was sent
            connection.request(method, path, body or None, dict(headers or {}))
        response = connection.getresponse()
        return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, response.read())
    finally:
        connection.close()
