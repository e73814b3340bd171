"""Training progress, and its display: a progress bar in a terminal, one line per epoch in a log."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

# Steps between two reports of progress: reading the loss makes the CPU wait for the GPU.
REPORT_EVERY_STEPS = 25


@dataclass(frozen=True)
class TrainingProgress:
    """Where training stands: the epoch, the steps done, and means over the epoch so far."""

    epoch: int  # from 1
    epochs: int
    step: int  # of the whole run, from 1
    steps: int
    images: int  # trained on, in the whole run
    loss: float
    accuracy: float  # on the augmented training images, from 0 to 1
    learning_rate: float
    epoch_ended: bool = False
    validation_accuracy: float | None = None  # at the end of an epoch, if there is a validation split


ProgressListener = Callable[[TrainingProgress], None]


class ProgressDisplay(Protocol):
    """Shows training progress; a context manager, so that it restores the terminal."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def __call__(self, progress: TrainingProgress) -> None: ...


def progress_display() -> ProgressDisplay:
    """A progress bar if standard output is a terminal, else log lines."""
    console = Console()
    return ProgressBar(console) if console.is_terminal else LogLines()


class Throughput:
    """Images per second in this process; a resumed run does not count the images before."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self._images_before: int | None = None

    def __call__(self, progress: TrainingProgress) -> float:
        if self._images_before is None:
            images_per_step = progress.images // progress.step
            self._images_before = progress.images - images_per_step * min(progress.step, REPORT_EVERY_STEPS)
        return (progress.images - self._images_before) / (time.perf_counter() - self._start)


class LogLines:
    """One line per epoch."""

    def __enter__(self) -> Self:
        self.throughput = Throughput()
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def __call__(self, progress: TrainingProgress) -> None:
        rate = self.throughput(progress)
        if progress.epoch_ended:
            images_left = (progress.steps - progress.step) / progress.step * progress.images
            time_left = f"{images_left / rate:.0f} s left" if rate else ""
            print(f"{progress_line(progress)}  {rate:,.0f} images/s  {time_left}", flush=True)


class ProgressBar:
    """A progress bar over the whole run, and a line for each epoch above it."""

    def __init__(self, console: Console) -> None:
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[rate]:,.0f} images/s"),
            TimeRemainingColumn(compact=True),
            console=console,
        )
        self.task = self.bar.add_task("starting", total=None, rate=0.0)

    def __enter__(self) -> Self:
        self.throughput = Throughput()
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def __call__(self, progress: TrainingProgress) -> None:
        line, rate = progress_line(progress), self.throughput(progress)
        self.bar.update(self.task, description=line, completed=progress.step, total=progress.steps, rate=rate)
        if progress.epoch_ended:
            self.bar.console.print(line, highlight=False)


def progress_line(progress: TrainingProgress) -> str:
    """For example `epoch 2/5  loss 0.512  accuracy 93.1%  validation 94.20%`, the last at the end of an epoch only."""
    text = f"epoch {progress.epoch}/{progress.epochs}  loss {progress.loss:.3f}  accuracy {progress.accuracy:.1%}"
    if progress.validation_accuracy is None:
        return text
    return f"{text}  validation {progress.validation_accuracy:.2%}"
