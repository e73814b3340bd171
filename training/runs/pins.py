"""Pins: what a run depends on besides its recipe. Each checkpoint has them, and a resumed run is compared with them.

    refused   another network, pooling, fit, other classes, images or splits: the rest would be of another experiment
    said      other code, PyTorch, device, precision or number of processes: the bits may differ
    restored  the number of threads, on which the order of sums and so the bits depend

Not here: a checkpoint's state and recipe (trainer/loop.py), its file (trainer/checkpoint.py).
"""

import dataclasses
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from training.data.dataset import Split, split_digest
from training.errors import TrainingError
from training.experiment import Experiment
from training.processors import available_processors
from training.trainer.checkpoint import CheckpointStore
from training.trainer.device import computing_dtype
from training.trainer.distributed import ProcessGroup

PINS = "pins"  # the key in a checkpoint
ROOT = Path(__file__).parents[2]
CODE = ("training", "service/pictures")  # what decides the weights lies below
# Changes that one message names; the others are counted.
MAX_NAMED = 5


@dataclass(frozen=True, kw_only=True)
class Pins:
    """What a run depends on besides its recipe; the fields are JSON values."""

    network: str
    pooling: dict[str, Any]  # the fields of Pooling
    labels: list[str]
    fit: dict[str, Any]  # Fit.record()
    images: dict[str, list[int]]  # of each split, by class id
    data: str  # SHA-256 of all pixels and labels
    split: str  # SHA-256 of the pixels and labels of the three splits
    code: str  # code_digest()
    pytorch: str
    device: str
    precision: str  # of the products of a step: float32, bfloat16 or float16
    processes: int
    threads: int

    @classmethod
    def of(cls, experiment: Experiment, processes: ProcessGroup, device: torch.device) -> "Pins":
        """The pins of a run of this experiment, here and now."""
        dataset = experiment.dataset
        splits = {"training": experiment.training, "validation": experiment.validation, "test": dataset.test}
        return cls(
            network=experiment.network.name,
            pooling=dataclasses.asdict(experiment.pooling),
            labels=list(dataset.label_names),
            fit=dict(experiment.fit.record()),
            images={name: _images_by_class(split, len(dataset.label_names)) for name, split in splits.items()},
            data=dataset.digest(),
            split=split_digest(experiment.training, experiment.validation, dataset.test),
            code=code_digest(),
            pytorch=str(torch.__version__),
            device=_device_name(device),
            precision=str(computing_dtype(device, mixed_precision=experiment.recipe.mixed_precision)).removeprefix(
                "torch."
            ),
            processes=processes.size,
            threads=torch.get_num_threads(),
        )

    @classmethod
    def of_checkpoint(cls, state: dict[str, Any]) -> "Pins":
        """The pins that a checkpoint has.

        Raises:
            TrainingError: it has none, or those of another version of this code.
        """
        try:
            return cls(**state[PINS])
        except (KeyError, TypeError) as error:
            raise TrainingError(
                "the checkpoint is of another version of this code, which recorded other facts about its run "
                f"({type(error).__name__}: {error}); use the code that made it, or train again"
            ) from error

    def refused_changes(self, now: "Pins") -> list[str]:
        """What differs from `now` so that the run cannot go on."""
        return [
            *(
                f"{name} {getattr(self, name)} before, {getattr(now, name)} now"
                for name in ("network", "pooling", "fit")
                if getattr(self, name) != getattr(now, name)
            ),
            *self._changed_data(now),
        ]

    def changes_of_bits(self, now: "Pins") -> list[str]:
        """What differs from `now` so that the run may end with other bits."""
        values = (
            (name, str(getattr(self, name)), str(getattr(now, name)))
            for name in ("code", "pytorch", "device", "precision", "processes")
        )
        return [f"{name} ({was} before, {is_now} now)" for name, was, is_now in values if was != is_now]

    def _changed_data(self, now: "Pins") -> Iterator[str]:
        if self.labels != now.labels:
            yield _changed_labels(self.labels, now.labels)
        elif counts := self._changed_counts(now):
            yield _first_of(counts)
        elif self.data != now.data:
            digests = f"SHA-256 {self.data[:12]} before, {now.data[:12]} now"
            yield f"as many images, but of other content or in another order ({digests})"
        elif self.split != now.split:
            yield "the same images, divided otherwise into training, validation and test"

    def _changed_counts(self, now: "Pins") -> list[str]:
        return [
            f"{split} images of {label!r}: {before:,} before, {current:,} now"
            for split, counts in self.images.items()
            for label, before, current in zip(self.labels, counts, now.images[split], strict=True)
            if before != current
        ]


class PinnedCheckpoints:
    """A checkpoint store that adds pins to each checkpoint, and compares those of the one that it finds.

    Constructing it restores the number of threads, and says where the run goes on and what may change its bits.

    Raises:
        TrainingError: what the run depends on has changed, or the checkpoint is damaged or of another version.
    """

    def __init__(self, store: CheckpointStore, pins: Pins, say: Callable[[str], None]) -> None:
        self._store, self._found = store, store.load()
        self._pins = dataclasses.asdict(pins)
        if self._found is None:
            return
        before = Pins.of_checkpoint(self._found)
        if changes := before.refused_changes(pins):
            raise TrainingError(
                f"the run cannot be resumed, because what it trains on has changed: {'; '.join(changes)}. "
                "Put back what was there, or start a new run without --resume"
            )
        if changes := before.changes_of_bits(pins):
            say(f"the run's bits may differ from those of an uninterrupted one: other {', '.join(changes)}")
        self._pins["threads"] = before.threads
        if before.threads != pins.threads:
            torch.set_num_threads(before.threads)
            cores = available_processors()
            more = f", though only {cores} cores are available: slower, for the same bits"
            say(f"threads: {before.threads}, as when the run began{more if before.threads > cores else ''}")
        say(f"resuming at step {self._found['step']:,} of {self._found['steps']:,}")

    def load(self) -> dict[str, Any] | None:
        """The checkpoint that was found; None if there was none."""
        return self._found

    def save(self, state: dict[str, Any]) -> None:
        """Replace the checkpoint by this state and the pins."""
        self._store.save(state | {PINS: self._pins})


def code_digest() -> str:
    """The first 12 digits of the SHA-256 of the source files, the same in a checkout, an image and a package."""
    sha = hashlib.sha256()
    for path in sorted(path for folder in CODE for path in (ROOT / folder).rglob("*.py")):
        sha.update(f"{path.relative_to(ROOT).as_posix()}\0".encode() + path.read_bytes() + b"\0")
    return sha.hexdigest()[:12]


def _images_by_class(split: Split, classes: int) -> list[int]:
    counts: list[int] = split.labels.bincount(minlength=classes).tolist()
    return counts


def _changed_labels(before: list[str], now: list[str]) -> str:
    new, missing = ([repr(label) for label in a if label not in b] for a, b in ((now, before), (before, now)))
    changes = [f"{what} {_first_of(labels)}" for what, labels in (("new", new), ("missing", missing)) if labels]
    return f"{len(before)} classes before, {len(now)} now: {'; '.join(changes) or 'in another order'}"


def _first_of(texts: list[str]) -> str:
    """The first of them, and the number of the others."""
    more = [f"and {len(texts) - MAX_NAMED} more"] if len(texts) > MAX_NAMED else []
    return ", ".join(texts[:MAX_NAMED] + more)


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return f"cuda, {torch.cuda.get_device_name(device)}"
    return f"{device.type}, {torch.backends.cpu.get_cpu_capability()}"
