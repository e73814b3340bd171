"""The recipe: every hyperparameter of a training run.

    tuned       one-cycle learning rate, AdamW, augmentation, an exponential moving average (EMA) of the weights, mixed
                precision; the last average is kept, and its probabilities are calibrated
    distilled   as tuned, for longer, and with the answers of teachers as labels
    reference   as in the networks' sources: Adam at a constant learning rate, float32, no augmentation, no validation
                split; the last weights are kept

A user's changes come last, and may change every field.

Not here: the training loop (loop.py), the kinds of augmentation (data/augment.py), teachers (distillation.py).
"""

import dataclasses
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from pydantic import Field, TypeAdapter, ValidationError
from torch import nn
from torch.optim.lr_scheduler import ConstantLR, LRScheduler, OneCycleLR

from training.data.augment import AUGMENTATIONS, NO_AUGMENTATION, Augmentation, augmentation_for
from training.data.dataset import Dataset, Split
from training.errors import InvalidSetting
from training.networks.classifier import Normalization
from training.networks.registry import Network

# Small data sets get smaller batches, so that an epoch has at least this number of steps; the batch size has a minimum.
MIN_STEPS_PER_EPOCH, MIN_BATCH_SIZE = 50, 8
# What the recipes change in the fields' own values; `tuned` changes nothing.
DISTILLED: Mapping[str, Any] = {"label_smoothing": 0.0, "teacher_weight": 1.0}
REFERENCE: Mapping[str, Any] = {
    "one_cycle": False,
    "weight_decay": 0.0,
    "ema_fraction": 0.0,
    "validation_share": 0.0,
    "standardize": False,
    "mixed_precision": False,
    "calibrate": False,
    "augmentation": NO_AUGMENTATION,
}
# Fields that are no choice of the user's here: they have flags of their own.
NOT_CHANGED = {"name", "seed", "augmentation"}
AUGMENTATION = "augmentation."  # the prefix of its fields
# Fraction of the steps in which a one-cycle learning rate rises. Not 0.2: OneCycleLR divides by zero if that is 1 step.
WARM_UP_FRACTION = 0.21
# With fewer validation images, chance decides which epoch is the best: at an accuracy of 75 %, one standard error is
# 1.4 points of 1,000 images and 8.7 points of 25.
MIN_IMAGES_TO_SELECT = 1000


Share = Annotated[float, Field(ge=0, lt=1)]


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the weights, given the network, the data set and the machine."""

    name: str
    epochs: Annotated[int, Field(ge=1)]
    batch_size: Annotated[int, Field(ge=1)]  # over all processes
    seed: Annotated[int, Field(ge=0)]
    learning_rate: Annotated[float, Field(gt=0)] = 6e-3  # the peak, if one_cycle
    one_cycle: bool = True  # else the learning rate is constant
    weight_decay: Annotated[float, Field(ge=0)] = 0.05  # AdamW's, of matrices and filters; 0 is plain Adam
    label_smoothing: Share = 0.0
    class_weights: bool = False  # weigh the loss of an image by the inverse of its class's frequency
    ema_fraction: Share = 0.06  # length of the weights' moving average, as a fraction of all steps; 0 is none
    validation_share: Annotated[float, Field(ge=0, le=0.5)] = 1 / 20  # of the training split, to validate every epoch
    select_best: bool = False  # keep the epoch with the best validation accuracy, else the last
    patience: Annotated[int, Field(ge=0)] = 0  # epochs without a lower validation loss that end training; 0 is no end
    standardize: bool = True  # normalize pixels to mean 0 and deviation 1; else with the network's constants
    mixed_precision: bool = True  # compute in 16 bits if the device's hardware does
    calibrate: bool = True  # fit a temperature on the validation images, if they are enough; see calibration.py
    augmentation: Augmentation = NO_AUGMENTATION
    teacher_weight: Annotated[float, Field(ge=0, le=1)] = 0.0  # of the teachers in the loss; the labels have the rest
    teacher_temperature: Annotated[float, Field(gt=0)] = 1.0  # divides logits: a higher one shows more of wrong classes
    teacher_views: Annotated[int, Field(ge=1)] = 20  # augmentations of each image, which the epochs take in turn


def recipe_for(
    name: str, network: Network, dataset: Dataset, *, seed: int, changes: Mapping[str, Any] | None = None
) -> Recipe:
    """The recipe `tuned`, `distilled` or `reference` for a network and a data set, with the user's changes.

    Raises:
        InvalidSetting: a change names no field, or its value is not allowed.
    """
    hyperparameters = getattr(network, name) or network.tuned
    batch_size = hyperparameters.batch_size
    recipe = Recipe(
        name=name,
        epochs=hyperparameters.epochs,
        batch_size=min(batch_size, max(MIN_BATCH_SIZE, len(dataset.train) // MIN_STEPS_PER_EPOCH)),
        seed=seed,
        learning_rate=hyperparameters.learning_rate,
        label_smoothing=hyperparameters.label_smoothing,
        augmentation=augmentation_for(dataset.name),
    )
    if name == "distilled":
        recipe = dataclasses.replace(recipe, **DISTILLED)
    if name == "reference":
        recipe = dataclasses.replace(recipe, batch_size=batch_size, **REFERENCE)
    recipe = changed(recipe, changes or {})
    own = dataset.validation
    validation_images = len(own) if own else int(len(dataset.train) * recipe.validation_share)
    if recipe.patience and not validation_images:
        raise InvalidSetting("--patience needs validation images: give --validation-share too")
    if changes and "select_best" in changes:
        return recipe
    return dataclasses.replace(recipe, select_best=selects_best(recipe, validation_images))


def selects_best(recipe: Recipe, validation_images: int) -> bool:
    """Whether the epoch with the best validation accuracy is kept.

    Not under `reference`, which keeps the last weights as the sources do. Not under one cycle: the learning rate ends
    near zero, so that the last epochs differ by chance alone, unless patience ends the run before. And not if there are
    too few validation images to tell epochs apart.
    """
    may_choose = recipe.name != "reference" and (not recipe.one_cycle or recipe.patience > 0)
    return may_choose and validation_images >= MIN_IMAGES_TO_SELECT


def changed(recipe: Recipe, changes: Mapping[str, Any]) -> Recipe:
    """The recipe with these fields changed; those of the augmentation are `augmentation.FIELD`. Values may be text.

    Raises:
        InvalidSetting: a change names no field, or its value is not allowed.
    """
    types = _types(Recipe) | {f"{AUGMENTATION}{name}": kind for name, kind in _types(Augmentation).items()}
    own: dict[str, Any] = {}
    of_augmentation: dict[str, Any] = {}
    for name, value in changes.items():
        if name == "augmentation":
            own[name] = _named_augmentation(value)
            continue
        if name not in types or name in NOT_CHANGED:
            raise InvalidSetting(
                f"--set {name}: no such field; choose from {', '.join(sorted(types.keys() - NOT_CHANGED))}"
            )
        try:
            checked = TypeAdapter(types[name]).validate_python(value)
        except ValidationError as error:
            raise InvalidSetting(f"--set {name}={value}: {error.errors()[0]['msg']}") from error
        if name.startswith(AUGMENTATION):
            of_augmentation[name.removeprefix(AUGMENTATION)] = checked
        else:
            own[name] = checked
    recipe = dataclasses.replace(recipe, **own)
    return dataclasses.replace(recipe, augmentation=dataclasses.replace(recipe.augmentation, **of_augmentation))


def _types(kind: type) -> dict[str, Any]:
    """The type of each field of a dataclass, with its bounds."""
    return typing.get_type_hints(kind, include_extras=True)


def _named_augmentation(name: str) -> Augmentation:
    if name not in AUGMENTATIONS:
        raise InvalidSetting(f"--augmentation {name}: choose from auto, {', '.join(AUGMENTATIONS)}")
    return AUGMENTATIONS[name]


def normalization_for(recipe: Recipe, network: Network, training: Split) -> Normalization:
    """How pixels are normalized; this becomes part of the graph."""
    if not recipe.standardize:
        return network.normalization
    mean, std = training.mean_and_std()
    return Normalization(round(mean, 4), round(std, 4) or 1.0)


def optimizer_for(recipe: Recipe, model: nn.Module) -> torch.optim.Optimizer:
    """AdamW, which decays matrices and filters alone, or plain Adam without weight decay."""
    kind = torch.optim.AdamW if recipe.weight_decay else torch.optim.Adam
    matrices = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in model.parameters() if parameter.ndim <= 1]  # biases and scales do not decay
    groups = [{"params": matrices, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return kind([group for group in groups if group["params"]], lr=recipe.learning_rate, fused=True)


def schedule_for(recipe: Recipe, optimizer: torch.optim.Optimizer, steps: int) -> LRScheduler:
    """The learning-rate schedule over all steps of the run."""
    if recipe.one_cycle:
        return OneCycleLR(optimizer, recipe.learning_rate, total_steps=steps, pct_start=WARM_UP_FRACTION)
    return ConstantLR(optimizer, factor=1.0)
