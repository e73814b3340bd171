"""What a run depends on: a resumed run refuses other data, says what may change its bits, and restores its threads."""

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.training import SAMPLE, MemoryStore, pins, splits
from training.data.dataset import split_digest
from training.errors import TrainingError
from training.runs import pins as pins_module
from training.runs.pins import PinnedCheckpoints, Pins, code_digest


@pytest.fixture(autouse=True)
def threads() -> Iterator[int]:
    """The number of threads, which is restored."""
    number = torch.get_num_threads()
    yield number
    torch.set_num_threads(number)


def resumed(before: Pins, now: Pins) -> list[str]:
    """What is said when a run that began with `before` is resumed with `now`."""
    store = MemoryStore()
    PinnedCheckpoints(store, before, print).save({"step": 1_500, "steps": 3_000})
    said: list[str] = []
    PinnedCheckpoints(store, now, said.append)
    return said


def test_a_run_that_depends_on_the_same_is_resumed_with_one_line() -> None:
    assert resumed(pins(), pins()) == ["resuming at step 1,500 of 3,000"]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"labels": ["cat", "fox"]}, "2 classes before, 2 now: new 'fox'; missing 'dog'"),
        ({"labels": ["cat", "dog", *"abcdef"]}, "2 classes before, 8 now: new 'a', 'b', 'c', 'd', 'e', and 1 more"),
        ({"labels": ["dog", "cat"]}, "2 classes before, 2 now: in another order"),
        (
            {"images": {"training": [5, 6], "validation": [1, 1], "test": [2, 1]}},
            "training images of 'dog': 5 before, 6 now, test images of 'dog': 2 before, 1 now",
        ),
        ({"data": "e" * 64}, "of other content or in another order (SHA-256 dddddddddddd before, eeeeeeeeeeee now)"),
        ({"split": "t" * 64}, "the same images, divided otherwise into training, validation and test"),
        ({"fit": {"method": "resize", "version": 1}}, "'resize', 'version': 1} now"),
        ({"network": "mnist-cnn"}, "network mnist-simplecnn before, mnist-cnn now"),
        ({"pooling": {"kind": "avg"}}, "pooling {'kind': 'max'} before, {'kind': 'avg'} now"),
    ],
)
def test_a_run_on_other_data_is_refused_and_the_message_names_the_change(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(TrainingError, match=f"cannot be resumed.*{re.escape(named)}.*start a new run without --resume"):
        resumed(pins(), pins(**changes))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"code": "e" * 12}, "other code (cccccccccccc before, eeeeeeeeeeee now)"),
        ({"pytorch": "2.14.2"}, "other pytorch (2.14.1 before, 2.14.2 now)"),
        ({"device": "cuda, H200"}, "other device (cpu, AVX2 before, cuda, H200 now)"),
        ({"precision": "bfloat16"}, "other precision (float32 before, bfloat16 now)"),
        ({"processes": 2}, "other processes (1 before, 2 now)"),
    ],
)
def test_other_code_or_another_machine_is_said_and_not_refused(changes: dict[str, Any], named: str) -> None:
    line, resuming = resumed(pins(), pins(**changes))
    assert line == f"the run's bits may differ from those of an uninterrupted one: {named}"
    assert resuming.startswith("resuming at step")


def test_the_number_of_threads_is_restored_and_kept_in_later_checkpoints(threads: int) -> None:
    store = MemoryStore()
    PinnedCheckpoints(store, pins(threads=threads + 1), print).save({"step": 1, "steps": 2})
    pinned = PinnedCheckpoints(store, pins(threads=threads), lambda _: None)
    assert torch.get_num_threads() == threads + 1
    pinned.save({"step": 2, "steps": 2})
    assert store.state is not None and Pins.of_checkpoint(store.state).threads == threads + 1


def test_more_threads_than_cores_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pins_module, "available_processors", lambda: 2)
    (line, _) = resumed(pins(threads=3), pins(threads=2))
    assert line == "threads: 3, as when the run began, though only 2 cores are available: slower, for the same bits"
    (line, _) = resumed(pins(threads=1), pins(threads=2))
    assert line == "threads: 1, as when the run began"


@pytest.mark.parametrize(
    "state", [{}, {"pins": {"network": "mnist-cnn"}}, {"pins": dataclasses.asdict(pins()) | {"x": 1}}]
)
def test_a_checkpoint_of_another_version_of_the_code_is_refused(state: dict[str, Any]) -> None:
    store = MemoryStore()
    store.save({"step": 1, **state})
    with pytest.raises(TrainingError, match="of another version of this code"):
        PinnedCheckpoints(store, pins(), print)


def test_the_digest_of_the_code_changes_with_a_source_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(code_digest()) == 12 and code_digest() == code_digest()
    monkeypatch.setattr(pins_module, "ROOT", tmp_path)
    digests = set()
    for name, text in (("training/a.py", "1"), ("training/a.py", "2"), ("training/b/c.py", ""), ("service/x.py", "")):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
        digests.add(code_digest())
    assert len(digests) == 3  # service/x.py does not decide the weights


def test_the_digest_of_the_splits_says_which_image_is_in_which() -> None:
    training, validation = splits()
    expected = split_digest(training, validation, SAMPLE.test)
    assert split_digest(training, validation, SAMPLE.test) == expected
    assert split_digest(validation, training, SAMPLE.test) != expected
    assert split_digest(training[1:], validation, SAMPLE.test) != expected
    assert len(split_digest(training, validation[:0], SAMPLE.test)) == 64
