"""What `Client` refuses and warns of before any call."""

import warnings
from pathlib import Path

import pytest

from service.client import Client, Tls

TOKEN = "-".join(["a", "secret"])


def test_a_token_in_the_clear_is_warned_of_without_printing_it() -> None:
    with pytest.warns(UserWarning, match="the token goes to example.com:8001 unencrypted") as caught:
        Client("example.com:8001", token=TOKEN).close()
    (warning,) = caught
    assert TOKEN not in str(warning.message) and warning.filename == __file__


@pytest.mark.parametrize(
    ("url", "token", "tls"),
    [
        ("127.0.0.1:1", TOKEN, None),
        ("unix:/s", TOKEN, None),
        ("example.com:1", "", None),
        ("example.com:1", TOKEN, Tls()),
    ],
)
def test_no_warning_without_a_token_within_this_machine_or_with_tls(url: str, token: str, tls: Tls | None) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Client(url, token=token, tls=tls).close()


@pytest.mark.parametrize("bad", [f"{TOKEN}\n", f"{TOKEN}ü", f"{TOKEN}\r\nx: y"])
def test_a_token_that_no_header_can_have_is_refused_without_printing_it(bad: str) -> None:
    with pytest.raises(ValueError, match="characters that a header cannot have") as raised:
        Client("127.0.0.1:1", token=bad)
    assert TOKEN not in str(raised.value)


def test_no_secret_is_in_a_repr(tmp_path: Path) -> None:
    with Client("127.0.0.1:1", token=TOKEN) as client:
        assert TOKEN not in repr(client)
    assert repr(Tls(key="caller.key")) == "Tls(ca=None, certificate=None, key='caller.key', server_name='')"


def test_the_url_of_a_page_is_refused() -> None:
    with pytest.raises(ValueError, match="HOST:PORT"):
        Client("https://example.com:8001")
