"""Trouble with a disk that holds for root too, whom permissions do not stop."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


def deny(monkeypatch: pytest.MonkeyPatch, path: Path, *, error: int = errno.EACCES) -> None:
    """Let every call that opens or lists the path, or what is below it, fail with that error until the patch ends."""

    def denying(call: Callable[..., Any]) -> Callable[..., Any]:
        def deny_below(name: Any = ".", *arguments: Any, **keywords: Any) -> Any:
            if not isinstance(name, int) and Path(name).is_relative_to(path):
                raise OSError(error, os.strerror(error), os.fspath(name))
            return call(name, *arguments, **keywords)

        return deny_below

    for name in ("open", "listdir", "scandir"):
        monkeypatch.setattr(os, name, denying(getattr(os, name)))
