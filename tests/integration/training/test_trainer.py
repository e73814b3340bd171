"""Training is deterministic, resumes with the same bits, keeps the right weights, and stops at an infinite loss."""

import dataclasses
import math

import pytest
import torch

from tests.support.training import NETWORK, SAMPLE, MemoryStore, pins, short_recipe, splits, train
from training.data.augment import DIGIT_AUGMENTATION
from training.errors import Interrupted, TrainingError
from training.runs.pins import PinnedCheckpoints
from training.trainer import loop
from training.trainer.loop import Trainer
from training.trainer.progress import TrainingProgress
from training.trainer.recipe import recipe_for


def flat_weights(model: torch.nn.Module) -> torch.Tensor:
    """A copy of all weights as one vector."""
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


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
    for sums in ("epoch_sums", "reported_sums"):
        assert torch.equal(uninterrupted.state[sums], interrupted.state[sums])
    assert uninterrupted.steps == [5, 10]


@pytest.mark.parametrize(("select_best", "kept", "accuracy"), [(True, 1, 0.9), (False, 2, 0.5)])
def test_the_last_weights_are_kept_or_those_with_the_best_validation_accuracy(
    monkeypatch: pytest.MonkeyPatch, select_best: bool, kept: int, accuracy: float
) -> None:
    correct_counts = iter([20, 90, 50])
    seen: list[torch.Tensor] = []

    def predict(model: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
        seen.append(flat_weights(model))
        correct = torch.arange(100) < next(correct_counts)
        return torch.nn.functional.one_hot(torch.where(correct, labels, (labels + 1) % 10)).float()

    labels = splits()[1].labels
    monkeypatch.setattr(loop, "predict", predict)
    model, result = train(short_recipe(epochs=3, select_best=select_best))
    assert result.validation_accuracy == accuracy
    assert torch.equal(flat_weights(model), seen[kept])


def test_a_run_resumed_with_another_number_of_threads_ends_with_the_same_bits() -> None:
    """Sums over a batch are in another order with other threads; the checkpoint restores their number."""
    number = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        expected = flat_weights(train(short_recipe(epochs=2))[0])
        store, questions = MemoryStore(), iter(range(1, 100))
        checkpoints = PinnedCheckpoints(store, pins(threads=2), print)
        with pytest.raises(Interrupted):
            train(short_recipe(epochs=2), checkpoints=checkpoints, should_stop=lambda: next(questions) == 4)
        torch.set_num_threads(1)
        model, _ = train(short_recipe(epochs=2), checkpoints=PinnedCheckpoints(store, pins(threads=1), print))
    finally:
        torch.set_num_threads(number)
    assert torch.equal(flat_weights(model), expected)


def test_a_run_that_took_its_last_step_resumes_with_its_weights_and_takes_no_step() -> None:
    store = MemoryStore()
    model, result = train(short_recipe(), checkpoints=store)
    reports: list[TrainingProgress] = []
    again, resumed = train(short_recipe(), reports.append, checkpoints=store)
    assert torch.equal(flat_weights(again), flat_weights(model)) and reports == []
    assert resumed.validation_accuracy == result.validation_accuracy


def test_a_checkpoint_within_the_first_epoch_has_the_weights_so_far() -> None:
    store = MemoryStore()
    with pytest.raises(Interrupted):
        train(short_recipe(), checkpoints=store, should_stop=lambda: True)
    assert store.state is not None
    model = NETWORK.classifier()
    model.load_state_dict(store.state["weights"])
    assert not torch.equal(flat_weights(model), flat_weights(NETWORK.classifier()))


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
