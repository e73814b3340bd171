"""The experiment: what the settings ask for, with everything that they leave open decided.

It holds the network, the data set and its splits, the fit of pictures, the recipe, the normalization, the name to
publish under and the accuracy gate, and gives the command that repeats it.
"""

import dataclasses
import math
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from service.pictures.fit import Fit
from training.data import datasets
from training.data.dataset import Dataset, Split, training_and_validation
from training.data.folder.load import PREFIX
from training.errors import GateError, InvalidSetting, TrainingError
from training.networks.classifier import Classifier, Normalization
from training.networks.pooling import Pooling
from training.networks.registry import Network, find_network
from training.publishing.publish import newest_version
from training.runs.initial_weights import InitialWeights, initialize, normalization_of
from training.runs.initial_weights import read as read_weights
from training.runs.run_folder import RunFolder
from training.settings import RESUME_OVERRIDES, Settings
from training.trainer.distributed import ProcessGroup
from training.trainer.recipe import Recipe, normalization_for, recipe_for

# Of the random choice of validation images: the same for all seeds, so that runs are compared on the same images, and a
# teacher has not seen its student's.
SPLIT_SEED = 0


@dataclass(frozen=True)
class Experiment:
    """One training run, described in full."""

    settings: Settings
    name: str  # of the model in the repository
    network: Network
    dataset: Dataset
    fit: Fit  # how a picture becomes an image of the data set
    training: Split
    validation: Split
    recipe: Recipe
    normalization: Normalization
    initial: InitialWeights | None = None  # of --init-from; else they are random

    @property
    def pooling(self) -> Pooling:
        """The pooling that the settings ask for."""
        return pooling_from(self.settings)

    def build_model(self) -> Classifier:
        """The network with its initial weights: random, which the seed decides, or those of `--init-from`.

        Raises:
            InvalidSetting: `--init-from` is of another network.
        """
        torch.manual_seed(self.settings.seed)
        model = self.network.classifier(self.pooling, len(self.dataset.label_names), self.normalization)
        if self.initial:
            initialize(model, self.initial, self.dataset.label_names)
        return model

    def check_accuracy(self, accuracy: float) -> None:
        """Apply the accuracy gate.

        Raises:
            GateError: the test accuracy is too low to publish.
        """
        gate = self.gate()
        if accuracy < gate.accuracy:
            raise GateError(f"test accuracy {accuracy:.2%} is below {gate.reason}; nothing was published")

    def gate(self) -> "Gate":
        """The accuracy gate: as set, or better than a constant answer and, under the network's own name, its own.

        Raises:
            GateError: a constant answer is right for every test image, so that no accuracy says anything.
        """
        if (given := self.settings.min_accuracy) is not None:
            return Gate(given, f"--min-accuracy {given:.2%}")
        gate = better_than_a_constant(self.dataset.test.labels)
        own = self.network.min_accuracy if self.name == self.network.name else 0.0
        if own > gate.accuracy:
            return Gate(own, f"{own:.2%}, which {self.network.name} exceeds unless its training went wrong")
        return gate


@dataclass(frozen=True)
class Gate:
    """The lowest test accuracy that is published, from 0 to 1, and where it comes from."""

    accuracy: float
    reason: str


def better_than_a_constant(labels: Tensor) -> Gate:
    """The gate that no constant answer passes: the share of the commonest class, and two standard errors of that share.

    `labels` (N,) are those of the test split. In a small one the sum exceeds 1: all answers must be right then.

    Raises:
        GateError: all labels are the same.
    """
    counts, images = labels.bincount(), len(labels)
    share = counts.max().item() / images
    if share == 1:
        raise GateError(
            f"all {images:,} test images are of one class, so that their accuracy says nothing; nothing was published. "
            "Add test images of the other classes, or set --min-accuracy"
        )
    errors = 2 * math.sqrt(share * (1 - share) / images)
    accuracy = min(share + errors, 1.0)
    return Gate(
        accuracy,
        f"{accuracy:.2%}, which no constant answer reaches: the commonest class has {share:.2%} of {images:,} test "
        f"images, and two standard errors are {100 * errors:.2f} points (--min-accuracy sets another gate)",
    )


def prepare(settings: Settings, processes: ProcessGroup) -> Experiment:
    """Load the data set and decide what the settings leave open.

    Raises:
        UnknownNetwork: no network has this name.
        ImpossibleSize: its layers do not fit its images with the pooling that the settings ask for.
        DataError: the data set cannot be loaded.
        TrainingError: its images do not have the shape that the network takes.
    """
    network = find_network(settings.model)
    network.build(pooling_from(settings), 10)  # an impossible size is found before the data set is read
    dataset_name = _dataset_name(settings, network)
    fit = datasets.own_fit(dataset_name) if settings.fit == "auto" else Fit(settings.fit)
    dataset = _load_dataset(dataset_name, settings, network, fit, processes)
    recipe = recipe_for(settings.recipe, network, dataset, seed=settings.seed, changes=recipe_changes(settings))
    if dataset.validation is not None and settings.validation_share is not None:
        raise InvalidSetting("--validation-share: the data set has a validation split of its own; leave the flag out")
    training, validation = training_and_validation(dataset, fraction=recipe.validation_share, seed=SPLIT_SEED)
    if not settings.batch_size:  # the split may leave fewer images than the recipe's batch
        recipe = dataclasses.replace(recipe, batch_size=min(recipe.batch_size, len(training)))
    initial = _initial_weights(settings)
    return Experiment(
        settings=settings,
        name=published_name(settings.name, network, dataset.name),
        network=network,
        dataset=dataset,
        fit=fit,
        training=training,
        validation=validation,
        recipe=recipe,
        normalization=normalization_of(initial.weights) if initial else normalization_for(recipe, network, training),
        initial=initial,
    )


def recipe_changes(settings: Settings) -> dict[str, Any]:
    """The fields of the recipe that the settings change: by flags of their own, then by `--set`.

    Raises:
        InvalidSetting: an item of `--set` is not KEY=VALUE.
    """
    flags = ("learning_rate", "weight_decay", "label_smoothing", "validation_share")
    changes: dict[str, Any] = {name: value for name in flags if (value := getattr(settings, name)) is not None}
    # 0 and false are the recipe's own values.
    changes |= {
        name: value
        for name in ("epochs", "batch_size", "patience", "class_weights")
        if (value := getattr(settings, name))
    }
    if settings.augmentation != "auto":
        changes["augmentation"] = settings.augmentation
    for item in settings.set:
        key, equals, value = item.partition("=")
        if not equals:
            raise InvalidSetting(f"--set {item}: expected KEY=VALUE, such as ema_fraction=0.1")
        changes[key.strip()] = value.strip()
    return changes


def pooling_from(settings: Settings) -> Pooling:
    """The pooling that the settings ask for."""
    return Pooling(settings.pooling, settings.pooling_window, settings.pooling_stride)


def published_version(settings: Settings) -> Path | None:
    """The newest published version of the experiment's model, if there is one; does not load the data set.

    Raises:
        UnknownNetwork: no network has this name.
    """
    folder = model_folders(settings)[0]
    newest = newest_version(folder)
    return folder / str(newest) if newest else None


def model_folders(settings: Settings) -> list[Path]:
    """The folders that the run publishes into: the model's and, if asked for, that of its 8-bit version.

    Raises:
        UnknownNetwork: no network has this name.
    """
    network = find_network(settings.model)
    name = published_name(settings.name, network, _dataset_name(settings, network))
    names = [name, int8_name(name)] if settings.quantize == "int8" else [name]
    return [settings.repository / name for name in names]


def int8_name(name: str) -> str:
    """The name of the model's 8-bit version."""
    return f"{name}-int8"


def published_name(name: str, network: Network, dataset: str) -> str:
    """The name to publish under: `name` if set, else the network's, followed by the data set's if not its own."""
    if name:
        return name
    if dataset in (network.dataset, f"{network.dataset}-sample"):
        return network.name
    suffix = Path(dataset.removeprefix(PREFIX)).resolve().name
    return re.sub(r"[^\w.-]", "-", f"{network.name}-{suffix}")


def reproducibility_settings(settings: Settings) -> dict[str, Any]:
    """The settings that decide the weights."""
    return settings.model_dump(exclude={*RESUME_OVERRIDES, "list", "summary", "evaluate"})


def repeat_command(settings: Settings, *, public: bool = False) -> str:
    """The command that repeats the training; a public one has the names of files and folders without their paths."""

    def shown(item: Any) -> str:
        if not public:
            return shlex.quote(str(item))
        if isinstance(item, Path):
            return shlex.quote(item.name)
        path = str(item).removeprefix(PREFIX)
        return shlex.quote(str(item) if path == item else f"{PREFIX}{Path(path).resolve().name}")

    flags = [
        f"--{name.replace('_', '-')}" + ("" if item is True else f" {shown(item)}")
        for name, value in reproducibility_settings(settings).items()
        if name != "model" and value != Settings.model_fields[name].default
        for item in (value if isinstance(value, tuple) else (value,))
    ]
    return " ".join(["python -m training", f"--model {settings.model}", *flags])


def _initial_weights(settings: Settings) -> InitialWeights | None:
    """The weights of `--init-from`; of a resumed run, its own, because the source may be gone."""
    if settings.init_from is None:
        return None
    own = settings.resume and RunFolder(settings.resume).checkpoints.path.exists()
    return read_weights(settings.resume if own and settings.resume else settings.init_from)


def _dataset_name(settings: Settings, network: Network) -> str:
    return network.dataset if settings.dataset == "auto" else settings.dataset


def _load_dataset(name: str, settings: Settings, network: Network, fit: Fit, processes: ProcessGroup) -> Dataset:
    """Load the data set; the main process first, which downloads or caches files while the others wait."""
    if not processes.is_main:
        processes.any(False)
    dataset = datasets.load(
        name,
        settings.data_dir,
        network.image_shape,
        fit,
        skip_unreadable=settings.skip_unreadable,
        say=_print_line if processes.is_main else None,
    )
    if processes.is_main:
        processes.any(False)
    if dataset.image_shape != network.image_shape:
        expected, found = ("×".join(map(str, shape)) for shape in (network.image_shape, dataset.image_shape))
        raise TrainingError(f"{network.name} takes images of {expected}; those of {dataset.name} are {found}")
    return dataset


def _print_line(text: str) -> None:
    print(text, flush=True)
