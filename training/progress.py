"""What a person sees while it trains: a progress bar in a terminal, a plain line an epoch elsewhere."""

import time
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from training.recipe import Step


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


class Lines:
    """One line an epoch, for logs."""

    def __enter__(self) -> Self:
        self.start = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def __call__(self, state: Step) -> None:
        if state.validation is not None:
            elapsed = time.perf_counter() - self.start
            left = elapsed * (state.steps - state.step) / state.step
            print(f"{summary(state)}  {state.images / elapsed:,.0f} images/s  {left:.0f} s left", flush=True)


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
        self.start = time.perf_counter()
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def __call__(self, state: Step) -> None:
        rate = state.images / (time.perf_counter() - self.start)
        self.progress.update(self.task, description=summary(state), completed=state.step, total=state.steps, rate=rate)
        if state.validation is not None:
            self.progress.console.print(summary(state), highlight=False)


def summary(state: Step) -> str:
    """`epoch 2/5  loss 0.512  accuracy 93.1 %`, with the validation accuracy once the epoch ends."""
    text = f"epoch {state.epoch}/{state.epochs}  loss {state.loss:.3f}  accuracy {state.accuracy:.1%}"
    return text if state.validation is None else f"{text}  validation {state.validation:.2%}"
