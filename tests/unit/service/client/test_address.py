"""Hosts and ports of the addresses that gRPC takes."""

import pytest

from service.client.address import check, endpoints, on_this_machine


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("Example.com:8001", [("example.com", "8001")]),
        ("example.com", [("example.com", "")]),
        ("[2001:DB8::1]:8001", [("2001:db8::1", "8001")]),
        ("[2001:db8::1]", [("2001:db8::1", "")]),
        ("2001:db8::1", [("2001:db8::1", "")]),
        ("dns:example.com:1", [("example.com", "1")]),
        ("dns:///example.com:1", [("example.com", "1")]),
        ("dns://8.8.8.8/example.com:1", [("example.com", "1")]),
        ("ipv4:10.0.0.1:1,10.0.0.2:2", [("10.0.0.1", "1"), ("10.0.0.2", "2")]),
        ("ipv6:[::1]:1", [("::1", "1")]),
        ("unix:/run/service.sock", []),
        ("unix:///run/service.sock", []),
        ("unix-abstract:service", []),
    ],
)
def test_an_address_has_these_hosts_and_ports(url: str, found: list[tuple[str, str]]) -> None:
    assert endpoints(url) == found


@pytest.mark.parametrize(
    "host",
    ["localhost", "LOCALHOST", "localhost.", "my.localhost", "127.0.0.1", "127.9.8.7", "[::1]", "0.0.0.0", "[::]",  # noqa: S104 - not bound to
     "[::ffff:127.0.0.1]"],
)  # fmt: skip
def test_loopback_is_this_machine(host: str) -> None:
    assert on_this_machine(f"{host}:8001") and on_this_machine(f"dns:///{host}:8001")


def test_a_unix_socket_is_this_machine() -> None:
    assert on_this_machine("unix:/run/service.sock") and on_this_machine("unix-abstract:service")


@pytest.mark.parametrize(
    "url",
    ["example.com:1", "localhost.example.com:1", "notlocalhost:1", "127.0.0.1.example.com:1", "10.0.0.1:1",
     "[fe80::1]:1", "ipv4:127.0.0.1:1,10.0.0.1:1"],
)  # fmt: skip
def test_other_addresses_are_not(url: str) -> None:
    assert not on_this_machine(url)


@pytest.mark.parametrize(
    ("scheme", "secure"), [("http", ""), ("https", " with TLS"), ("grpc", ""), ("grpcs", " with TLS")]
)
def test_the_url_of_a_page_is_refused_with_the_address_to_give(scheme: str, secure: str) -> None:
    with pytest.raises(ValueError, match=f"HOST:PORT, here 'example.com:8001'{secure}, without {scheme}://"):
        check(f"{scheme}://example.com:8001/v2")
    check("example.com:8001")
    check("dns:///example.com:8001")
