"""The names of a run folder's files, and what can be read of them without torch, also while a run writes them.

Not here: writing them (run_folder.py), a run's record (record.py).
"""

import json
from pathlib import Path
from typing import Any

SETTINGS, METRICS, CHECKPOINT, CALIBRATION, PREDICTIONS, FACTS, REPORT, RESULT, ERROR = (
    "settings.json", "metrics.jsonl", "checkpoint.pt", "calibration.json", "test.npz", "facts.json", "report.html",
    "result.json", "error.txt",
)  # fmt: skip
# Of a comparison's folder, in place of the last eight: its runs, the inputs of its pooling pictures, and its page.
COMPARISON, FEATURE_MAPS, COMPARISON_PAGE = "comparison.json", "feature_maps.npz", "comparison.html"
INDEX = "index.html"  # of the folder of all runs
# The last line of metrics.jsonl is looked for in this number of bytes; a line has about 400.
TAIL_BYTES = 8192


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        OSError: the file cannot be read.
        ValueError: it holds no JSON object.
    """
    content = json.loads(path.read_bytes())
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, not an object")
    return content


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl; lines that were cut off are skipped."""
    return _parsed(path.read_bytes()) if path.exists() else []


def last_metrics(path: Path) -> dict[str, Any]:
    """The last whole line of metrics.jsonl, read from the file's end; empty if there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - TAIL_BYTES))
            lines = _parsed(file.read())
    except OSError:
        return {}
    return lines[-1] if lines else {}


def _parsed(content: bytes) -> list[dict[str, Any]]:
    lines = []
    for line in content.splitlines():
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict):
            lines.append(value)
    return lines
