"""What a decoder thread does for one picture: measure it, and make it one row of a model's input.

Not here: when (picture_queue.py, picture_decoder.py), file formats, decoding and fitting (service.pictures).
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from service.core.errors import InvalidArgument
from service.core.spec import Arrays
from service.pictures.fit import Fit

# Memory that raw pixels take, in bytes for each of theirs: a copy, Pillow's own four bytes a pixel, and its conversion.
BYTES_OF_RAW = 9


@dataclass(frozen=True)
class RawImage:
    """Pixels, row by row, one byte a channel."""

    pixels: bytes
    width: int
    height: int
    channels: int


# The content of a request's image: an encoded file, raw pixels, or None for neither.
ImageSource = bytes | RawImage | None


class PictureWork:
    """The work for one picture, for a model's input of `shape`: (height, width, channels).

    `read` copies its content out of the request; the copy is kept from `measure` to the end of `decode`.
    """

    def __init__(self, read: Callable[[], ImageSource], shape: tuple[int, int, int], fit: Fit) -> None:
        self._read = read
        self._shape = shape
        self._fit = fit
        self._source: ImageSource = None

    def measure(self) -> int:
        """Read the header: the memory that decoding takes, in bytes.

        Raises:
            InvalidArgument: the picture cannot be used.
        """
        # Here, because Pillow loads slowly and many services never classify.
        from service.pictures import files, fitting

        self._source = self._read()
        with _invalid_argument():
            match self._source:
                case bytes():
                    return files.memory_needed(self._source, fitting.min_side(self._shape, self._fit))
                case RawImage():
                    return BYTES_OF_RAW * len(self._source.pixels)
                case _:
                    raise files.BadPicture("expected encoded or raw, got neither")

    def postpone(self) -> None:
        """Let the copy go: other pictures are decoded first."""
        self._source = None

    def decode(self) -> Arrays:
        """The picture as one row, after `measure`.

        Raises:
            InvalidArgument: the picture cannot be used.
        """
        from service.pictures import files, fitting

        source, self._source = self._source or self._read(), None
        with _invalid_argument():
            if isinstance(source, RawImage):
                picture = files.from_pixels(source.pixels, source.width, source.height, source.channels)
                image = fitting.fit_picture(picture, self._shape, self._fit)
            else:
                assert source is not None
                image = fitting.fit_file(source, self._shape, self._fit)
        return (np.ascontiguousarray(image)[None],)


@contextlib.contextmanager
def _invalid_argument() -> Iterator[None]:
    from service.pictures.files import BadPicture

    try:
        yield
    except BadPicture as error:
        raise InvalidArgument("images", str(error)) from error
