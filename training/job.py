"""What is to be done: the settings, and what follows from them and from the data.

Owns: which network, data and recipe, the name to publish under, the gate, and the command that repeats it.
"""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training import sources
from training.data import Dataset, Part, split
from training.errors import TrainingError
from training.folder import PREFIX
from training.group import Group
from training.networks import Network, Scaling, network_called
from training.publish import newest_version
from training.recipe import Recipe, recipe_for, scaling_for
from training.settings import CHANGEABLE, Settings


@dataclass(frozen=True)
class Job:
    """What is to be done."""

    settings: Settings
    name: str  # to publish under
    network: Network
    dataset: Dataset
    recipe: Recipe
    parts: tuple[Part, Part]  # training and validation
    scaling: Scaling


def prepare(settings: Settings, group: Group) -> Job:
    """Fetch and check the data, and settle what the settings leave open."""
    network = network_called(settings.model)
    name = _dataset_name(settings, network)
    if not group.leads:
        group.any(False)  # the first process fetches what is missing, the others wait for it
    dataset = sources.load(name, settings.data_dir, network.image)
    if group.leads:
        group.any(False)
    if dataset.image != network.image:
        takes, has = ("×".join(map(str, image)) for image in (network.image, dataset.image))
        raise TrainingError(f"{network.name} takes images of {takes}, and those of {dataset.name} are {has}")
    recipe = recipe_for(
        settings.recipe,
        network,
        dataset,
        seed=settings.seed,
        epochs=settings.epochs,
        batch_size=settings.batch_size,
    )
    parts = split(dataset.train, validation=int(len(dataset.train) * recipe.validation), seed=settings.seed)
    scaling = scaling_for(recipe, network, parts[0])
    return Job(settings, published_name(settings.name, network, dataset.name), network, dataset, recipe, parts, scaling)


def already_published(settings: Settings) -> Path | None:
    """The newest version of what the job would publish, if there is one; the data is not read for that.

    Raises:
        UnknownNetwork: there is no such network.
    """
    network = network_called(settings.model)
    folder = settings.repository / published_name(settings.name, network, _dataset_name(settings, network))
    newest = newest_version(folder)
    return folder / str(newest) if newest else None


def _dataset_name(settings: Settings, network: Network) -> str:
    return network.dataset if settings.dataset == "auto" else settings.dataset


def published_name(wanted: str, network: Network, dataset: str) -> str:
    """The name to publish under: what is asked for, or the network's, and the data's where it is not its own."""
    if wanted:
        return wanted
    own = {network.dataset, f"{network.dataset}-sample"}
    if dataset in own:
        return network.name
    folder = Path(dataset.removeprefix(PREFIX)).resolve().name
    return re.sub(r"[^\w.-]", "-", f"{network.name}-{folder}")


def gate(job: Job) -> float:
    """The least accuracy to publish: as set, or what suits the network, or better than a guess."""
    if job.settings.min_accuracy is not None:
        return job.settings.min_accuracy
    if job.name == job.network.name:
        return job.network.least
    commonest = job.dataset.test.labels.bincount().max().item()
    return commonest / len(job.dataset.test)


def repeat_command(settings: Settings) -> str:
    """The command line that does the same again."""
    given = [
        f"--{name.replace('_', '-')}" + ("" if value is True else f" {shlex.quote(str(value))}")
        for name, value in decisive(settings).items()
        if name != "model" and value != Settings.model_fields[name].default
    ]
    return " ".join(["python -m training", f"--model {settings.model}", *given])


def decisive(settings: Settings) -> dict[str, Any]:
    """The settings that decide what is learned."""
    return settings.model_dump(exclude={*CHANGEABLE, "list", "summary"})
