"""The trainer: checkpoints, progress, the validation split, and errors that name the setting to change."""

import math

import pytest
import torch

from tests.support.training import CPU, NETWORK, MemoryStore, short_recipe, splits, train
from training.errors import OutOfMemory, TrainingError
from training.trainer import loop
from training.trainer.loop import Trainer
from training.trainer.progress import TrainingProgress


def test_the_training_time_includes_the_time_before_the_run_was_resumed() -> None:
    store = MemoryStore()
    train(short_recipe(epochs=2), checkpoints=store)
    assert store.state is not None
    store.state["seconds"] += 1000
    _, result = train(short_recipe(epochs=2), checkpoints=store)
    assert 1000 < result.seconds < 1100


def test_a_checkpoint_of_another_recipe_is_refused() -> None:
    store = MemoryStore()
    train(short_recipe(), checkpoints=store)
    with pytest.raises(TrainingError, match="the checkpoint was made with other settings"):
        train(short_recipe(learning_rate=1e-3), checkpoints=store)


def test_without_a_validation_split_the_last_weights_are_kept() -> None:
    training, validation = splits()
    model = NETWORK.classifier()
    a_recipe = short_recipe(epochs=2, ema_fraction=0.0, validation_fraction=0.0)
    reports: list[TrainingProgress] = []
    result = loop.train(model, training, validation[:0], a_recipe, device=CPU, listeners=[reports.append])
    assert result.validation_accuracy is None
    assert [report.validation_accuracy for report in reports] == [None, None]
    assert [report.epoch_ended for report in reports] == [True, True]


def test_progress_is_reported_up_to_the_last_step() -> None:
    reports: list[TrainingProgress] = []
    train(short_recipe(epochs=2), reports.append)
    assert [report.step for report in reports if report.validation_accuracy is not None] == [5, 10]
    assert (reports[-1].steps, reports[-1].images) == (10, 1000)
    assert reports[-1].loss < reports[0].loss


def test_an_infinite_learning_rate_makes_the_loss_not_finite() -> None:
    with pytest.raises(TrainingError, match="the loss is not finite at step"):
        train(short_recipe(learning_rate=math.inf))


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9999 bytes."),
        MemoryError(),
    ],
)
def test_running_out_of_memory_names_the_setting_to_lower(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(Trainer, "train_step", fail)
    with pytest.raises(OutOfMemory, match="batches of 100 images: lower --batch-size"):
        train(short_recipe())


def test_a_batch_larger_than_the_training_split_is_refused() -> None:
    with pytest.raises(TrainingError, match="--batch-size 1000 is more than the 500 training images"):
        train(short_recipe(batch_size=1000))
