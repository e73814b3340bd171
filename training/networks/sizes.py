"""The size of a convolution's or a pooling layer's output, by its formula.

    ⌊(n + 2p − f) / s⌋ + 1    for n values, padding p at each end, a window of f values and stride s

Not here: the layers of a network with their sizes, as a table (layers.py).
"""

from training.errors import ImpossibleSize

FORMULA = "⌊(n + 2p − f) / s⌋ + 1"


def output_size(size: int, *, window: int, stride: int = 1, padding: int = 0) -> int:
    """The number of values along one axis after a window has moved over `size` values.

    Raises:
        ImpossibleSize: the window is larger than what it moves over.
    """
    result = (size + 2 * padding - window) // stride + 1
    if result < 1:
        raise ImpossibleSize(
            f"a window of {window}×{window} does not fit on a map of {size}×{size}: the output size is "
            f"{FORMULA} = {worked(size, window=window, stride=stride, padding=padding)} = {result}; "
            "choose a smaller --pooling-window or --pooling-stride"
        )
    return result


def worked(size: int, *, window: int, stride: int = 1, padding: int = 0) -> str:
    """The formula with its numbers, such as ⌊(28+2·1−3)/1⌋+1."""
    padded = f"{size}+2·{padding}" if padding else str(size)
    return f"⌊({padded}−{window})/{stride}⌋+1"
