"""The recipes: their hyperparameters for each network and data set, and their normalization."""

import pytest
import torch

from tests.support.training import NETWORK, SAMPLE, short_recipe, splits
from training.data.augment import NO_AUGMENTATION
from training.data.dataset import Dataset, Split
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
        assert reference.augmentation == NO_AUGMENTATION and reference.validation_fraction == 0
        assert not reference.mixed_precision
        assert recipe.normalization_for(reference, network, splits()[0]) == network.normalization


@pytest.mark.parametrize(("images", "batch_size"), [(60_000, 256), (10_000, 200), (5_000, 100), (30, 8)])
def test_small_data_sets_get_smaller_batches_unless_the_batch_size_is_set(images: int, batch_size: int) -> None:
    split = Split(torch.zeros(images, 1, 1, 1), torch.zeros(images))
    dataset = Dataset("mine", split, split, ())
    default = recipe_for("tuned", NETWORK, dataset, seed=0)
    assert (default.epochs, default.batch_size) == (25, batch_size)
    given = recipe_for("tuned", NETWORK, dataset, seed=0, epochs=3, batch_size=7)
    assert (given.epochs, given.batch_size) == (3, 7)


def test_the_tuned_recipe_normalizes_the_training_images_to_mean_0_and_deviation_1() -> None:
    training, _ = splits()
    normalization = recipe.normalization_for(short_recipe(), NETWORK, training)
    normalized = NETWORK.classifier(normalization=normalization).normalize(training.images)
    assert abs(normalized.mean()) < 1e-3 and abs(normalized.std() - 1) < 1e-3
    black = Split(torch.zeros(3, 28, 28, 1, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64))
    assert recipe.normalization_for(short_recipe(), NETWORK, black) == Normalization(0.0, 1.0)


def test_the_best_epoch_is_selected_only_without_one_cycle_and_on_1000_validation_images() -> None:
    split = Split(torch.zeros(60_000, 1, 1, 1), torch.zeros(60_000))
    dataset = Dataset("mine", split, split, ())
    assert not recipe_for("tuned", NETWORK, dataset, seed=0).select_best
    assert not recipe_for("reference", NETWORK, dataset, seed=0).select_best
    constant_rate = short_recipe(one_cycle=False)  # a twentieth is validated
    assert recipe.selects_best(constant_rate, 20_000) and not recipe.selects_best(constant_rate, 19_999)
    assert not recipe.selects_best(short_recipe(), 20_000)
