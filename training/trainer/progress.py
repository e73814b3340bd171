"""Training progress, and its display: a progress bar in a terminal, one line per epoch in a log."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

# Steps between two reports of progress: reading the loss makes the CPU wait for the GPU.
REPORT_EVERY_STEPS = 25
# Share of the last interval in the progress bar's moving average of images per second.
SMOOTHING = 0.3


@dataclass(frozen=True)
class TrainingProgress:
    """Where training stands: the epoch, the steps done, and means since the last report and over the epoch so far.

    Accuracies are from 0 to 1; losses are means over images: cross-entropy in training, else the negative
    log-likelihood. Figures of the validation and test splits come at the end of an epoch, if the run has such a split
    to watch.
    """

    epoch: int  # from 1
    epochs: int
    step: int  # of the whole run, from 1
    steps: int
    images: int  # trained on, in the whole run
    seconds: float  # of the whole run so far, validation and the time before a resume included
    images_per_second: float  # since the last report, of training alone
    loss: float  # since the last report, on the augmented training images
    accuracy: float
    epoch_loss: float  # the same over the epoch so far
    epoch_accuracy: float
    learning_rate: float
    epoch_ended: bool = False
    validation_accuracy: float | None = None
    validation_loss: float | None = None
    test_accuracy: float | None = None
    test_loss: float | None = None

    @property
    def seconds_left(self) -> float:
        """Seconds to the last step, at the mean speed so far."""
        return self.seconds / self.step * (self.steps - self.step)


def reports_after(step: int, steps: int) -> bool:
    """Whether progress is reported after this step of an epoch, from 1, that has so many steps.

    At the end of the epoch, and every REPORT_EVERY_STEPS before, unless so few steps are left that the next report's
    means would be of a handful.
    """
    left = steps - step
    return not left or (step % REPORT_EVERY_STEPS == 0 and left >= REPORT_EVERY_STEPS // 2)


ProgressListener = Callable[[TrainingProgress], None]


class ProgressDisplay(Protocol):
    """Shows training progress; a context manager, so that it restores the terminal."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def __call__(self, progress: TrainingProgress) -> None: ...


def progress_display() -> ProgressDisplay:
    """A progress bar if standard output is a terminal, else log lines.

    Console.is_terminal is also true where colours are forced: in Jupyter's kernels and many CI systems, whose output
    would then hold every state of the bar.
    """
    return ProgressBar(Console()) if sys.stdout.isatty() else LogLines()


class LogLines:
    """One line per epoch."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def __call__(self, progress: TrainingProgress) -> None:
        if progress.epoch_ended:
            left = f"{progress.seconds_left:.0f} s left" if progress.step < progress.steps else ""
            print(f"{progress_line(progress)}  {progress.images_per_second:,.0f} images/s  {left}".rstrip(), flush=True)


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
        self.rate = 0.0  # images per second, a moving average

    def __enter__(self) -> Self:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def __call__(self, progress: TrainingProgress) -> None:
        line, rate = progress_line(progress), progress.images_per_second
        self.rate += (rate - self.rate) * (SMOOTHING if self.rate else 1)
        self.bar.update(self.task, description=line, completed=progress.step, total=progress.steps, rate=self.rate)
        if progress.epoch_ended:
            self.bar.console.print(line, highlight=False)


def progress_line(progress: TrainingProgress) -> str:
    """The epoch's means: `epoch 2/5  loss 0.512  accuracy 93.1%  validation 94.20%`, the last at its end only."""
    loss, accuracy = progress.epoch_loss, progress.epoch_accuracy
    text = f"epoch {progress.epoch}/{progress.epochs}  loss {loss:.3f}  accuracy {accuracy:.1%}"
    for name, of_split in (("validation", progress.validation_accuracy), ("test", progress.test_accuracy)):
        if of_split is not None:
            text += f"  {name} {of_split:.2%}"
    return text
