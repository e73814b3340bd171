"""grpc-timeout as gRPC's core reads it. tests/integration/test_timeouts.py compares with the core itself."""

import math

import pytest

from service.core.errors import InvalidTimeout
from service.transport.grpc.timeouts import SHORTEST, deadline_at, parse_timeout


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (b"1n", 1e-9), (b"5u", 5e-6), (b"5m", 5e-3), (b"5S", 5.0), (b"5M", 300.0), (b"5H", 18000.0),
        (b" 5 S ", 5.0), (b"000000005S", 5.0), (b"100000000S", 1e8), (b"1000000000S", 1e9),
        (b"1000000001S", math.inf), (b"9" * 5_000, math.inf),
    ],
)  # fmt: skip
def test_a_number_and_a_unit_are_seconds(header: bytes, seconds: float) -> None:
    assert parse_timeout(header) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "header", [b"", b" ", b"S", b"5", b"5s", b"-5S", b"+5S", b"5.5S", b"0x5S", b"5S5", b"5SS", b"\xd9\xa1S", b"5S\n"]
)
def test_any_other_form_is_invalid(header: bytes) -> None:
    with pytest.raises(InvalidTimeout):
        parse_timeout(header)


def test_a_deadline_is_the_time_left_from_now_and_has_passed_if_that_is_too_short() -> None:
    assert deadline_at(7.0, None) is None
    assert deadline_at(7.0, math.inf) is None
    assert deadline_at(7.0, 0.5) == 7.5
    for seconds_left in (-1.0, 0.0, 1e-9, SHORTEST):
        assert deadline_at(7.0, seconds_left) == 7.0
