"""`make clean` keeps what took long to make, and `make clean-all` asks before it removes that."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.paths import ROOT

CACHES = (".venv", "build", ".mypy_cache", "simplecnn.egg-info", "service/__pycache__")
KEPT = ("models/mnist-simplecnn/1", "runs/20261129", "data/MNIST", "service/pb")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with the Makefile and what work leaves in a checkout."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    for name in (*CACHES, *KEPT):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "file").touch()
    return tmp_path


def make(checkout: Path, *arguments: str, answer: str | None = None) -> "subprocess.CompletedProcess[str]":
    """Run make there: without a terminal, or with one on which the answer is typed."""
    command = ["/usr/bin/env", "make", *arguments]
    if answer is None:
        return subprocess.run(
            command, cwd=checkout, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=60
        )
    keyboard, terminal = os.openpty()
    try:
        os.write(keyboard, answer.encode())
        return subprocess.run(
            command, cwd=checkout, stdin=terminal, capture_output=True, text=True, check=False, timeout=60
        )
    finally:
        os.close(keyboard)
        os.close(terminal)


def left(checkout: Path) -> set[str]:
    """Which of the folders are still there, with their files."""
    return {name for name in (*CACHES, *KEPT) if (checkout / name / "file").exists()}


def test_clean_removes_environment_and_caches_and_keeps_models_runs_and_data(checkout: Path) -> None:
    result = make(checkout, "clean")
    assert result.returncode == 0, result.stderr
    assert left(checkout) == set(KEPT)
    assert make(checkout, "clean").returncode == 0, "a clean checkout can be cleaned"


@pytest.mark.parametrize("answer", ["n\n", "\n", "no\n", None])
def test_clean_all_removes_nothing_without_consent(checkout: Path, answer: str | None) -> None:
    result = make(checkout, "clean-all", answer=answer)
    assert result.returncode != 0
    assert ("nothing removed" if answer else "make clean-all YES=1") in result.stderr
    assert left(checkout) == {*CACHES, *KEPT}


@pytest.mark.parametrize(("arguments", "answer"), [((), "y\n"), ((), "yes\n"), (("YES=1",), None)])
def test_clean_all_with_consent_removes_models_and_runs_and_keeps_data(
    checkout: Path, arguments: tuple[str, ...], answer: str | None
) -> None:
    result = make(checkout, "clean-all", *arguments, answer=answer)
    assert result.returncode == 0, result.stderr
    assert left(checkout) == {"data/MNIST", "service/pb"}
    assert "models" in result.stdout and "runs" in result.stdout, "their sizes are not said"
