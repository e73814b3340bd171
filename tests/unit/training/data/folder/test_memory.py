"""The memory that images take is said, and refused if it is not there."""

from pathlib import Path

import pytest

from training.data.folder import memory
from training.errors import DataError


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with 8 GiB available and no limit of a container."""
    (tmp_path / "meminfo").write_text(f"MemTotal: 1 kB\nMemAvailable:   {8 * 2**20} kB\n")
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "LIMITS", ((tmp_path / "limit", tmp_path / "used"),))
    return tmp_path


def test_what_the_images_take_and_what_is_available_is_said(machine: Path) -> None:
    assert memory.check_memory(100_000, (28, 28, 1)) == (
        "100,000 pictures as images of 28 × 28 × 1 take up to 224.3 MiB of memory; 8.0 GiB are available"
    )


def test_more_than_is_available_is_refused_with_what_to_do(machine: Path) -> None:
    with pytest.raises(DataError) as caught:
        memory.check_memory(100_000, (224, 224, 3))
    for text in ("42.1 GiB", "8.0 GiB are available", "fewer pictures", "smaller images"):
        assert text in str(caught.value)


def test_the_limit_of_a_container_counts(machine: Path) -> None:
    (machine / "limit").write_text(f"{2**30}\n")
    (machine / "used").write_text(f"{2**29}\n")
    assert memory.available_memory() == 2**29
    (machine / "limit").write_text("max\n")
    assert memory.available_memory() == 8 * 2**30


def test_a_machine_that_says_nothing_of_its_memory_is_not_refused(machine: Path) -> None:
    (machine / "meminfo").unlink()
    assert memory.available_memory() is None
    assert "available" not in memory.check_memory(10**9, (224, 224, 3))
