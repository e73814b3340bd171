"""The digest of an image's pixels, and the place that it gives an image among all others.

Not here: what is decided by it, which is the test split of a folder (folder/splits.py) and its validation split
(dataset.py).
"""

import hashlib

import numpy as np
from numpy.typing import NDArray


def image_digest(image: NDArray[np.uint8]) -> bytes:
    """SHA-256 of the image's pixels."""
    return hashlib.sha256(np.ascontiguousarray(image).data).digest()


def position(digest: bytes, purpose: str) -> float:
    """A number from 0 to 1, evenly spread over images; that of one purpose says nothing of that of another."""
    value = hashlib.sha256(purpose.encode() + b"\0" + digest).digest()
    return int.from_bytes(value[:8]) / 2**64
