"""One job from its first line to its last: prepare, train, and hand what was learned to finish.py.

Owns: the order of things while it trains, by one process or many, and what is said meanwhile.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import torch

from training import runs
from training.errors import Interrupted, TrainingError
from training.finish import finish
from training.group import Group, joined
from training.job import Job, prepare
from training.networks import Classifier
from training.pooling import Pooling
from training.progress import display
from training.recipe import Step, narrow_type, train
from training.settings import Settings
from training.signals import Signals


def run(settings: Settings, signals: Signals) -> Path | None:
    """Do the job; the folder that was published, or None from all but the first process of a group.

    Raises:
        TrainingError: it came to an end before that, and the message says why.
        OSError: something cannot be written.
    """
    with joined(settings.device) as (group, device):
        job = prepare(settings, group)
        folder = _folder(job) if group.leads else None
        torch.manual_seed(settings.seed)
        model = Classifier(job.network, Pooling(settings.pool), len(job.dataset.label_names), job.scaling)
        if folder:
            _announce(job, folder, group, device)
        with signals, ExitStack() as stack:
            try:
                selected, seconds = train(
                    model,
                    job.parts,
                    job.recipe,
                    device=device,
                    report=_reporter(folder, stack),
                    keeper=folder or (runs.RunFolder(settings.resume) if settings.resume else None),
                    group=group,
                    stopping=signals,
                )
            except Interrupted as error:
                raise Interrupted(_way_on(error, folder)) from error
    return finish(job, folder, model, selected, seconds) if folder else None


def _folder(job: Job) -> runs.RunFolder:
    """The run's folder, new or the one to go on with.

    Raises:
        TrainingError: it has ended.
    """
    settings = job.settings
    if settings.resume is None:
        saved = settings.model_dump(mode="json", exclude={"resume", "list", "summary", "unless_published"})
        return runs.begin(settings.runs, job.name, saved, tensorboard=settings.tensorboard)
    folder = runs.RunFolder(settings.resume, tensorboard=settings.tensorboard)
    if folder.result:
        raise TrainingError(f"{folder.path} has ended: it was published as {folder.result['published']}")
    return folder


def _way_on(error: Interrupted, folder: runs.RunFolder | None) -> str:
    """What the first process says of having been stopped; the others leave it to that one."""
    if folder is None:
        return ""
    return (
        f"{error}; nothing was published, what was done is kept; go on with: python -m training --resume {folder.path}"
    )


def _announce(job: Job, folder: runs.RunFolder, group: Group, device: torch.device) -> None:
    training, validation = job.parts
    numbers = f"{len(training):,} images to train, {len(validation):,} to select, {len(job.dataset.test):,} to test"
    narrow = narrow_type(device) if job.recipe.narrow else None
    where = f"{group.size} × {device}" if group.size > 1 else str(device)
    print(
        f"training {job.network.name} on {job.dataset.name}: {numbers}; {job.recipe.epochs} epochs on {where}"
        f"{f' in {narrow}'.replace('torch.', '') if narrow else ''}"
    )
    print(f"run {folder.path}", flush=True)


def _reporter(folder: runs.RunFolder | None, stack: ExitStack) -> Callable[[Step], None]:
    """What is told of progress: a person and the run's folder, by the first process alone."""
    if folder is None:
        return lambda _: None
    told: Sequence[Callable[[Step], None]] = (stack.enter_context(display()), stack.enter_context(folder))

    def tell(state: Step) -> None:
        for one in told:
            one(state)

    return tell
