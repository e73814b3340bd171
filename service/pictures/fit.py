"""A fit: how pictures become the images that a model was trained on; a published version carries its record.

    drawing   dark or light lines on a page of another shade: found, cropped, scaled and centred like MNIST's digits
    resize    scaled until it covers the input, and cropped to its middle
    none      taken as it is; it must have the input's size and channels

Not here: fitting (fitting.py), which imports Pillow; this module imports neither Pillow nor NumPy.
"""

from collections.abc import Mapping
from dataclasses import dataclass

DRAWING, RESIZE, NONE = "drawing", "resize", "none"
# The version of each method. A change of the images that it gives is a new version: models are trained with one.
VERSIONS = {DRAWING: 1, RESIZE: 1, NONE: 1}
# The longer side of one of MNIST's digits, as a fraction of the image's.
DIGIT_SHARE = 20 / 28


class UnknownFit(ValueError):
    """The record is not that of a fit of this code; the message says what was expected and what came."""


@dataclass(frozen=True)
class Fit:
    """How pictures are fitted: the method, in this code's version, and the parameters of the method."""

    method: str
    share: float = DIGIT_SHARE  # drawing: the longer side of the drawing, as a fraction of the input's

    @property
    def version(self) -> int:
        """The version of the method."""
        return VERSIONS[self.method]

    def __str__(self) -> str:
        share = f", share {self.share:.3g}" if self.method == DRAWING else ""
        return f"{self.method} (version {self.version}{share})"

    def record(self) -> dict[str, str | int | float]:
        """The fit as JSON values, for a manifest."""
        record: dict[str, str | int | float] = {"method": self.method, "version": self.version}
        return record | {"share": self.share} if self.method == DRAWING else record

    @classmethod
    def from_record(cls, record: Mapping[str, object]) -> "Fit":
        """The fit of a record.

        Raises:
            UnknownFit: this code has no such method or version, or a parameter is missing or invalid.
        """
        method, version, share = record.get("method"), record.get("version"), record.get("share")
        if not isinstance(method, str) or method not in VERSIONS:
            raise UnknownFit(f"the fit's method expected one of {', '.join(VERSIONS)}, got {method!r}")
        if version != VERSIONS[method]:
            raise UnknownFit(f"the fit {method} expected version {VERSIONS[method]}, got {version!r}")
        if method != DRAWING:
            return cls(method)
        if not isinstance(share, int | float) or not 0 < share <= 1:
            raise UnknownFit(f"the fit drawing expected a share above 0 and at most 1, got {share!r}")
        return cls(method, share=float(share))


def default_fit(channels: int) -> Fit:
    """The fit of a model that records none: grey images are drawings."""
    return Fit(DRAWING if channels == 1 else RESIZE)
