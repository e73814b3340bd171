"""JSON that every parser reads: the standard has no NaN and no infinity, which Python would write.

Not here: which files are written (publishing/publish.py, runs/run_folder.py).
"""

import json
import math
from collections.abc import Mapping


def to_json(content: object, *, indent: int | None = None) -> str:
    """The content as JSON; a number that is not finite becomes null, and a path its text."""
    return json.dumps(finite(content), indent=indent, allow_nan=False, default=str)


def finite(content: object) -> object:
    """The content with None for every number that is not finite."""
    if isinstance(content, float):
        return content if math.isfinite(content) else None
    if isinstance(content, Mapping):
        return {key: finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [finite(value) for value in content]
    return content
