"""The batch sizes that a model version runs, and padding of a batch up to one of them."""

from bisect import bisect_left
from collections.abc import Sequence


def batch_sizes(max_batch_size: int) -> list[int]:
    """The powers of two up to `max_batch_size`, and `max_batch_size` itself, ascending."""
    return sorted({*(2**power for power in range(max_batch_size.bit_length())), max_batch_size})


def padded(rows: int, sizes: Sequence[int]) -> int:
    """The smallest of the ascending `sizes` that holds `rows` rows; `rows` itself if none does."""
    index = bisect_left(sizes, rows)
    return sizes[index] if index < len(sizes) else rows
