"""The deadline of a call, from grpc-timeout: one meaning on both gRPC servers.

Owns the shortest timeout that is served, and the reading of a header that pygrpc-native takes for no timeout. Not here:
deadlines that pass or cannot be met in the queue (batching/).
"""

import math
import re

from service.core.errors import InvalidTimeout

# In seconds. gRPC's core rounds every shorter timeout up to this; whether a call ended in time would be chance.
SHORTEST = 0.001
# gRPC's core reads more digits than the eight of its specification, and takes larger numbers for no timeout.
MAX_NUMBER = 10**9
UNITS = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}


def deadline_at(now: float, seconds_left: float | None) -> float | None:
    """The deadline on the clock of `now`; None without one. With SHORTEST seconds left or less, it has passed."""
    if seconds_left is None or seconds_left == math.inf:
        return None
    return now + seconds_left if seconds_left > SHORTEST else now


def parse_timeout(header: bytes) -> float:
    """The seconds in a grpc-timeout header, read as gRPC's core reads it; infinity for no timeout.

    Raises:
        InvalidTimeout: the header is not a number and a unit.
    """
    match = re.match(rb" *([0-9]+)(.*)", header, re.DOTALL)
    if match is None:
        raise InvalidTimeout
    digits = match[1].lstrip(b"0") or b"0"
    if len(digits) > len(str(MAX_NUMBER)) or int(digits) > MAX_NUMBER:
        return math.inf
    unit = UNITS.get(match[2].strip(b" "))
    if unit is None:
        raise InvalidTimeout
    return int(digits) * unit
