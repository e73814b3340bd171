"""Which addresses are reached through a proxy, by the environment."""

import pytest

from service.client.proxies import NO_PROXY, proxy_of, proxy_options

DIRECT = [("grpc.enable_http_proxy", 0)]
PROXY = {"https_proxy": "http://user:secret@proxy.example.net:3128"}


@pytest.mark.parametrize("url", ["127.0.0.1:8001", "localhost:8001", "[::1]:8001", "unix:/run/service.sock"])
def test_no_proxy_leads_to_this_machine(url: str) -> None:
    for variable in ("grpc_proxy", "https_proxy", "http_proxy", "HTTPS_PROXY"):
        assert proxy_options(url, {variable: "http://proxy:1"}) == DIRECT
        assert proxy_of(url, {variable: "http://proxy:1"}) == ""


@pytest.mark.parametrize(
    ("listed", "url"),
    [
        ("*", "example.com:8001"),
        ("example.com", "example.com:8001"),
        ("example.com", "a.example.com:8001"),
        ("example.com", "dns:///EXAMPLE.com:8001"),
        (".example.com", "example.com:8001"),
        (".example.com", "a.example.com:8001"),
        ("*.example.com", "a.example.com:8001"),
        ("EXAMPLE.com", "example.com.:8001"),
        ("example.com:8001", "example.com:8001"),
        ("one.net, example.com ,two.net", "example.com:8001"),
        ("one.net example.com", "example.com:8001"),
        ("10.0.0.1", "10.0.0.1:8001"),
        ("10.0.0.1:8001", "10.0.0.1:8001"),
        ("10.0.0.0/8", "10.1.2.3:8001"),
        ("10.9.9.9/8", "10.1.2.3:8001"),
        ("2001:db8::1", "[2001:DB8:0::1]:8001"),
        ("[2001:db8::1]:8001", "[2001:db8::1]:8001"),
        ("2001:db8::/32", "[2001:db8::1]:8001"),
        ("10.0.0.0/8", "ipv4:10.0.0.1:1,10.0.0.2:1"),
    ],
)
def test_a_listed_host_is_called_directly(listed: str, url: str) -> None:
    for variable in NO_PROXY:
        assert proxy_options(url, PROXY | {variable: listed}) == DIRECT


@pytest.mark.parametrize(
    ("listed", "url"),
    [
        ("", "example.com:8001"),
        (" ,,", "example.com:8001"),
        (".", "example.com:8001"),
        ("ample.com", "example.com:8001"),
        ("a.example.com", "example.com:8001"),
        ("example.com:443", "example.com:8001"),
        ("10.0.0.1", "10.0.0.11:8001"),
        ("0.0.1", "10.0.0.1:8001"),
        ("10.0.0.0/8", "11.0.0.1:8001"),
        ("10.0.0.0/8", "example.com:8001"),
        ("10.0.0.0/99", "10.0.0.1:8001"),
        ("10.0.0.0/8", "[2001:db8::1]:8001"),
        ("10.0.0.1", "ipv4:10.0.0.1:1,10.0.0.2:1"),
    ],
)
def test_any_other_host_is_left_to_grpc(listed: str, url: str) -> None:
    assert proxy_options(url, PROXY | {"no_proxy": listed}) == []


def test_the_first_list_that_is_not_empty_counts() -> None:
    lists = {"no_grpc_proxy": "", "no_proxy": "one.net", "NO_PROXY": "two.net"}
    assert proxy_options("one.net:1", PROXY | lists) == DIRECT
    assert proxy_options("two.net:1", PROXY | lists) == []


def test_a_proxy_in_upper_case_alone_is_used_too() -> None:
    upper = {"HTTPS_PROXY": "http://upper:1"}
    assert proxy_options("example.com:1", upper) == [("grpc.http_proxy", "http://upper:1")]
    assert proxy_options("example.com:1", upper | PROXY) == []
    assert proxy_options("example.com:1", upper | {"http_proxy": ""}) == []
    assert proxy_options("example.com:1", upper | {"NO_PROXY": "example.com"}) == DIRECT


def test_the_proxy_is_named_without_its_credentials() -> None:
    assert proxy_of("example.com:1", PROXY) == "https_proxy, proxy.example.net:3128"
    assert proxy_of("example.com:1", PROXY | {"no_proxy": "*"}) == proxy_of("example.com:1", {"http_proxy": ""}) == ""
