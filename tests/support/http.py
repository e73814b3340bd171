"""GET requests."""

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
