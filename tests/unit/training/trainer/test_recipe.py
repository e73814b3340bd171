"""The recipes: their hyperparameters for each network and data set, and their normalization."""

import dataclasses

import pytest
import torch

from tests.support.training import NETWORK, SAMPLE, short_recipe, splits
from training.data.augment import NO_AUGMENTATION, PHOTO_AUGMENTATION
from training.data.dataset import Dataset, Split
from training.errors import InvalidSetting
from training.networks import registry
from training.networks.classifier import Normalization
from training.trainer import recipe
from training.trainer.recipe import recipe_for


def test_the_reference_recipe_is_that_of_the_networks_sources() -> None:
    expected = {"mnist-simplecnn": (5, 64), "mnist-cnn": (4, 64), "cifar10-cnn": (10, 32), "cifar10-lenet": (2, 100)}
    for name, (epochs, batch_size) in expected.items():
        network = registry.NETWORKS[name]
        reference = recipe_for("reference", network, SAMPLE, seed=3)
        assert (reference.epochs, reference.batch_size) == (epochs, batch_size)
        assert (reference.learning_rate, reference.seed, reference.one_cycle) == (1e-3, 3, False)
        assert (reference.weight_decay, reference.label_smoothing, reference.ema_fraction) == (0, 0, 0)
        assert reference.augmentation == NO_AUGMENTATION and reference.validation_share == 0
        assert not reference.mixed_precision
        assert recipe.normalization_for(reference, network, splits()[0]) == network.normalization


@pytest.mark.parametrize(("images", "batch_size"), [(60_000, 256), (10_000, 200), (5_000, 100), (30, 8)])
def test_small_data_sets_get_smaller_batches_unless_the_batch_size_is_set(images: int, batch_size: int) -> None:
    split = Split(torch.zeros(images, 1, 1, 1), torch.zeros(images))
    dataset = Dataset("mine", split, split, ())
    default = recipe_for("tuned", NETWORK, dataset, seed=0)
    assert (default.epochs, default.batch_size) == (25, batch_size)
    given = recipe_for("tuned", NETWORK, dataset, seed=0, changes={"epochs": 3, "batch_size": 7})
    assert (given.epochs, given.batch_size) == (3, 7)


def test_the_tuned_recipe_normalizes_the_training_images_to_mean_0_and_deviation_1() -> None:
    training, _ = splits()
    normalization = recipe.normalization_for(short_recipe(), NETWORK, training)
    normalized = NETWORK.classifier(normalization=normalization).normalize(training.images)
    assert abs(normalized.mean()) < 1e-3 and abs(normalized.std() - 1) < 1e-3
    black = Split(torch.zeros(3, 28, 28, 1, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64))
    assert recipe.normalization_for(short_recipe(), NETWORK, black) == Normalization(0.0, 1.0)


def test_a_user_may_change_every_field_of_the_recipe_by_text() -> None:
    changes = {"learning_rate": "2e-3", "one_cycle": "false", "augmentation": "photos", "augmentation.shift": "1.5"}
    changed = recipe_for("tuned", NETWORK, SAMPLE, seed=0, changes=changes)
    assert (changed.learning_rate, changed.one_cycle) == (2e-3, False)
    assert changed.augmentation == dataclasses.replace(PHOTO_AUGMENTATION, shift=1.5)


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        ("momentum", "0.9", "no such field; choose from .*learning_rate"),
        ("augmentation.colour", "1", "no such field"),
        ("seed", "3", "no such field"),
        ("learning_rate", "fast", "should be a valid number"),
        ("learning_rate", "nan", "greater than 0"),
        ("weight_decay", "-1", "greater than or equal to 0"),
        ("augmentation", "zoom", "choose from auto, off, digits"),
    ],
)
def test_a_change_that_is_not_allowed_is_refused_by_name(key: str, value: str, problem: str) -> None:
    with pytest.raises(InvalidSetting, match=f"{key}.*{problem}"):
        recipe_for("tuned", NETWORK, SAMPLE, seed=0, changes={key: value})


def test_weight_decay_is_of_matrices_and_filters_alone() -> None:
    model = NETWORK.classifier()
    groups = recipe.optimizer_for(short_recipe(weight_decay=0.1), model).param_groups
    assert [(group["weight_decay"], {parameter.ndim for parameter in group["params"]}) for group in groups] == [
        (0.1, {2, 4}),
        (0.0, {1}),
    ]


def test_the_best_epoch_is_selected_only_without_one_cycle_and_on_1000_validation_images() -> None:
    split = Split(torch.zeros(60_000, 1, 1, 1), torch.zeros(60_000))
    dataset = Dataset("mine", split, split, ())
    assert not recipe_for("tuned", NETWORK, dataset, seed=0).select_best
    assert not recipe_for("reference", NETWORK, dataset, seed=0).select_best
    constant_rate = short_recipe(one_cycle=False)
    assert recipe.selects_best(constant_rate, 1000) and not recipe.selects_best(constant_rate, 999)
    assert not recipe.selects_best(short_recipe(), 1000)
