"""The recipe: every hyperparameter of a training run.

    tuned       one-cycle learning rate, AdamW, augmentation, an exponential moving average (EMA) of the weights, mixed
                precision; the epoch with the best validation accuracy is kept, and its probabilities are calibrated
    reference   as in the networks' sources: Adam at a constant learning rate, float32, no augmentation, no validation
                split; the last weights are kept

Not here: the training loop (trainer.py), the kinds of augmentation (augment.py).
"""

import dataclasses
from dataclasses import dataclass

import torch
from torch import nn
from torch.optim.lr_scheduler import ConstantLR, LRScheduler, OneCycleLR

from training.data.augment import NO_AUGMENTATION, Augmentation, augmentation_for
from training.data.dataset import Dataset, Split
from training.networks.classifier import Normalization
from training.networks.registry import Network

# Small data sets get smaller batches, so that an epoch has at least this number of steps; the batch size has a minimum.
MIN_STEPS_PER_EPOCH, MIN_BATCH_SIZE = 50, 8
# Fraction of the steps in which a one-cycle learning rate rises. Not 0.2: OneCycleLR divides by zero if that is 1 step.
WARM_UP_FRACTION = 0.21


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the weights, given the network, the data set and the machine."""

    name: str
    epochs: int
    batch_size: int  # over all processes
    seed: int
    learning_rate: float = 6e-3  # the peak, if one_cycle
    one_cycle: bool = True  # else the learning rate is constant
    weight_decay: float = 0.05  # AdamW; 0 is plain Adam
    label_smoothing: float = 0.0
    ema_fraction: float = 0.06  # length of the weights' moving average, as a fraction of all steps; 0 is none
    validation_fraction: float = 1 / 20  # of the training split, set aside to choose the best epoch
    standardize: bool = True  # normalize pixels to mean 0 and deviation 1; else with the network's constants
    mixed_precision: bool = True  # compute in 16 bits if the device's hardware does
    calibrate: bool = True  # fit a temperature on the validation images, if they are enough; see calibration.py
    augmentation: Augmentation = NO_AUGMENTATION


def recipe_for(
    name: str, network: Network, dataset: Dataset, *, seed: int, epochs: int = 0, batch_size: int = 0
) -> Recipe:
    """The recipe `tuned` or `reference` for a network and a data set; `epochs` and `batch_size` of 0 are its own."""
    hyperparameters = network.reference if name == "reference" else network.tuned
    default_batch_size = min(hyperparameters.batch_size, max(MIN_BATCH_SIZE, len(dataset.train) // MIN_STEPS_PER_EPOCH))
    recipe = Recipe(
        name=name,
        epochs=epochs or hyperparameters.epochs,
        batch_size=batch_size or default_batch_size,
        seed=seed,
        learning_rate=hyperparameters.learning_rate,
        label_smoothing=hyperparameters.label_smoothing,
        augmentation=augmentation_for(dataset.name),
    )
    if name == "reference":
        return dataclasses.replace(
            recipe,
            batch_size=batch_size or hyperparameters.batch_size,
            one_cycle=False,
            weight_decay=0.0,
            ema_fraction=0.0,
            validation_fraction=0.0,
            standardize=False,
            mixed_precision=False,
            calibrate=False,
            augmentation=NO_AUGMENTATION,
        )
    return recipe


def normalization_for(recipe: Recipe, network: Network, training: Split) -> Normalization:
    """How pixels are normalized; this becomes part of the graph."""
    if not recipe.standardize:
        return network.normalization
    std, mean = torch.std_mean(training.images.to(torch.float32) / 255)
    return Normalization(round(mean.item(), 4), round(std.item(), 4) or 1.0)


def optimizer_for(recipe: Recipe, model: nn.Module) -> torch.optim.Optimizer:
    """AdamW, or plain Adam without weight decay."""
    kind = torch.optim.AdamW if recipe.weight_decay else torch.optim.Adam
    return kind(model.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True)


def schedule_for(recipe: Recipe, optimizer: torch.optim.Optimizer, steps: int) -> LRScheduler:
    """The learning-rate schedule over all steps of the run."""
    if recipe.one_cycle:
        return OneCycleLR(optimizer, recipe.learning_rate, total_steps=steps, pct_start=WARM_UP_FRACTION)
    return ConstantLR(optimizer, factor=1.0)
