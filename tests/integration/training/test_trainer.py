"""Training is deterministic, resumes with the same bits, keeps the best weights and stops if the loss is not finite."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from training import datasets, networks, trainer
from training.augment import (
    DIGIT_AUGMENTATION,
)
from training.dataset import Split, split_validation
from training.errors import Interrupted, TrainingError
from training.progress import ProgressListener
from training.recipe import Recipe, recipe_for
from training.trainer import Trainer, TrainingResult

CPU = torch.device("cpu")
NETWORK = networks.NETWORKS["mnist-simplecnn"]
SAMPLE = datasets.load("mnist-sample", Path("unused"))


def splits(count: int = 600) -> tuple[Split, Split]:
    """500 digits to train on and 100 to validate on."""
    return split_validation(SAMPLE.train[torch.arange(count)], size=100, seed=0)


def short_recipe(**changes: Any) -> Recipe:
    """One epoch of 5 steps."""
    base = Recipe("tuned", epochs=1, batch_size=100, seed=0, augmentation=DIGIT_AUGMENTATION)
    return dataclasses.replace(base, **changes)


def flat_weights(model: torch.nn.Module) -> torch.Tensor:
    """A copy of all weights as one vector."""
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def train(a_recipe: Recipe, *listeners: ProgressListener, **options: Any) -> tuple[networks.Classifier, TrainingResult]:
    """A network trained with this recipe, and the result."""
    torch.manual_seed(a_recipe.seed)
    model = networks.Classifier(NETWORK)
    return model, trainer.train(model, *splits(), a_recipe, device=CPU, listeners=listeners, **options)


class MemoryStore:
    """A checkpoint store in memory; it copies what it is given, as a file would."""

    def __init__(self) -> None:
        self.state: dict[str, Any] | None = None
        self.steps: list[int] = []

    def load(self) -> dict[str, Any] | None:
        return self.state

    def save(self, state: dict[str, Any]) -> None:
        self.state = _copy(state)
        self.steps.append(state["step"])


def _copy(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.clone()
    if isinstance(value, dict):
        return {key: _copy(item) for key, item in value.items()}
    return value


def test_the_same_seed_gives_the_same_weights_and_another_seed_does_not() -> None:
    first = flat_weights(train(short_recipe(seed=1))[0])
    assert torch.equal(first, flat_weights(train(short_recipe(seed=1))[0]))
    assert not torch.equal(first, flat_weights(train(short_recipe(seed=2))[0]))


@pytest.mark.parametrize("stop_at", [1, 4, 5, 7])
@pytest.mark.parametrize("name", ["tuned", "reference"])
def test_a_stopped_and_resumed_run_ends_with_the_same_bits(name: str, stop_at: int) -> None:
    two_epochs = dataclasses.replace(
        recipe_for(name, NETWORK, SAMPLE, seed=0), epochs=2, batch_size=100, augmentation=DIGIT_AUGMENTATION
    )
    uninterrupted = MemoryStore()
    expected = flat_weights(train(two_epochs, checkpoints=uninterrupted)[0])
    questions = iter(range(1, 100))
    interrupted = MemoryStore()
    with pytest.raises(Interrupted, match=f"stopped at step {stop_at} of 10"):
        train(two_epochs, checkpoints=interrupted, should_stop=lambda: next(questions) == stop_at)
    assert interrupted.steps[-1] == stop_at
    model, _ = train(two_epochs, checkpoints=interrupted)
    assert torch.equal(flat_weights(model), expected)
    assert uninterrupted.state is not None and interrupted.state is not None
    assert torch.equal(uninterrupted.state["epoch_sums"], interrupted.state["epoch_sums"])
    assert uninterrupted.steps == [5, 10]


def test_the_weights_with_the_best_validation_accuracy_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    correct_counts = iter([20, 90, 50])
    seen: list[torch.Tensor] = []

    def predict(model: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
        seen.append(flat_weights(model))
        correct = torch.arange(100) < next(correct_counts)
        return torch.nn.functional.one_hot(torch.where(correct, labels, (labels + 1) % 10)).float()

    labels = splits()[1].labels
    monkeypatch.setattr(trainer, "predict", predict)
    model, result = train(short_recipe(epochs=3))
    assert result.validation_accuracy == 0.9
    assert torch.equal(flat_weights(model), seen[1])


@pytest.mark.parametrize("bad_step", [1, 3, 5, 6])
def test_a_loss_that_is_not_finite_stops_training_and_keeps_the_last_checkpoint(
    monkeypatch: pytest.MonkeyPatch, bad_step: int
) -> None:
    store, train_step = MemoryStore(), Trainer.train_step

    def train_step_with_nan(a_trainer: Trainer, batch: torch.Tensor) -> torch.Tensor:
        loss = train_step(a_trainer, batch)
        return loss * math.nan if a_trainer.step + 1 == bad_step else loss

    monkeypatch.setattr(Trainer, "train_step", train_step_with_nan)
    with pytest.raises(TrainingError, match=f"the loss is not finite at step {bad_step} of 10"):
        train(short_recipe(epochs=2), checkpoints=store)
    assert store.steps == ([5] if bad_step > 5 else [])
