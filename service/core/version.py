"""What runs: the package's version and the commit of this code."""

import os
import subprocess
from functools import cache
from importlib.metadata import version
from pathlib import Path

VERSION = version("simplecnn")
# Set by images and by a supervisor for its workers, so that neither asks git.
COMMIT_VARIABLE = "SIMPLECNN_COMMIT"


@cache
def commit() -> str:
    """The commit of this code, with `-dirty` if files differ from it; "unknown" outside a checkout and an image."""
    if built_from := os.environ.get(COMMIT_VARIABLE):
        return built_from
    return commit_of(Path(__file__).parents[2])


def commit_of(checkout: Path) -> str:
    """The commit of a checkout; "unknown" if the folder is not the top of one."""
    if not (checkout / ".git").exists():  # git would look in the folders above
        return "unknown"
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=True, timeout=5)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return done.stdout.strip()
