"""The package's version and the commit of this code."""

import os
import subprocess
from importlib.metadata import version
from pathlib import Path

VERSION = version("simplecnn")


def commit() -> str:
    """The commit of this code, with `-dirty` if files differ from it; "unknown" outside a checkout or an image."""
    if built_from := os.environ.get("SIMPLECNN_COMMIT"):
        return built_from
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        git = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True, timeout=5)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return git.stdout.strip()
