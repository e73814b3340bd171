"""What a person sees while it trains: a progress bar in a terminal, a plain line an epoch elsewhere."""

import time
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from training.recipe import REPORT_EVERY, Step


class Display(Protocol):
    """Shows where training stands; a context manager, so that the terminal is left as it was."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def __call__(self, state: Step) -> None: ...


def display() -> Display:
    """The display that fits where standard output goes."""
    console = Console()
    return Bar(console) if console.is_terminal else Lines()


class Speed:
    """Images a second, of those that were done here: a run that is continued does not begin at 0."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self._before: int | None = None

    def __call__(self, state: Step) -> float:
        if self._before is None:
            self._before = state.images - state.images // state.step * min(state.step, REPORT_EVERY)
        return (state.images - self._before) / (time.perf_counter() - self._start)


class Lines:
    """One line an epoch, for logs."""

    def __enter__(self) -> Self:
        self.speed = Speed()
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def __call__(self, state: Step) -> None:
        rate = self.speed(state)
        if state.ended:
            left = f"{(state.steps - state.step) / state.step * state.images / rate:.0f} s left" if rate else ""
            print(f"{summary(state)}  {rate:,.0f} images/s  {left}", flush=True)


class Bar:
    """A progress bar over the whole run, and a line that stays for each epoch."""

    def __init__(self, console: Console) -> None:
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[rate]:,.0f} images/s"),
            TimeRemainingColumn(compact=True),
            console=console,
        )
        self.task = self.progress.add_task("starting", total=None, rate=0.0)

    def __enter__(self) -> Self:
        self.speed = Speed()
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def __call__(self, state: Step) -> None:
        rate = self.speed(state)
        self.progress.update(self.task, description=summary(state), completed=state.step, total=state.steps, rate=rate)
        if state.ended:
            self.progress.console.print(summary(state), highlight=False)


def summary(state: Step) -> str:
    """`epoch 2/5  loss 0.512  accuracy 93.1 %`, with the validation accuracy once the epoch ends."""
    text = f"epoch {state.epoch}/{state.epochs}  loss {state.loss:.3f}  accuracy {state.accuracy:.1%}"
    return text if state.validation is None else f"{text}  validation {state.validation:.2%}"
