"""JSON files hold no NaN and no infinity, which other parsers refuse."""

import json
from pathlib import Path

from training.strict_json import to_json


def test_numbers_that_are_not_finite_become_null_at_any_depth() -> None:
    content = {"a": float("nan"), "b": [1, 0.5, (float("inf"), {"c": -float("inf")})], "path": Path("x")}
    text = to_json(content)
    assert "NaN" not in text and "Infinity" not in text
    assert json.loads(text) == {
        "a": None, "b": [1, 0.5, [None, {"c": None}]], "path": "x",
    }  # fmt: skip
