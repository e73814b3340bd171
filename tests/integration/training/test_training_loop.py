"""The trainer: checkpoints, progress, the validation split, and errors that name the setting to change."""

import math

import pytest
import torch

from tests.support.training import CPU, NETWORK, SAMPLE, MemoryStore, short_recipe, splits, train
from training.data.dataset import Split
from training.errors import OutOfMemory, TrainingError
from training.networks import registry
from training.networks.classifier import predict
from training.trainer import loop
from training.trainer.distributed import SINGLE_PROCESS
from training.trainer.loop import Trainer
from training.trainer.progress import TrainingProgress


def test_the_training_time_includes_the_time_before_the_run_was_resumed() -> None:
    store = MemoryStore()
    train(short_recipe(epochs=2), checkpoints=store)
    assert store.state is not None
    store.state["seconds"] += 1000
    _, result = train(short_recipe(epochs=2), checkpoints=store)
    assert 1000 < result.seconds < 1100


def test_a_checkpoint_of_another_recipe_is_refused_and_the_message_names_what_changed() -> None:
    store = MemoryStore()
    train(short_recipe(), checkpoints=store)
    with pytest.raises(TrainingError, match=r"another recipe \(learning_rate 0.006 before, 0.001 now\)"):
        train(short_recipe(learning_rate=1e-3), checkpoints=store)


@pytest.mark.parametrize("damage", ["step", "optimizer", "weights", "reported_step"])
def test_a_checkpoint_that_lacks_something_is_refused(damage: str) -> None:
    store = MemoryStore()
    train(short_recipe(), checkpoints=store)
    assert store.state is not None
    del store.state[damage]
    with pytest.raises(TrainingError, match=f"does not fit this network and code .KeyError: '{damage}'"):
        train(short_recipe(), checkpoints=store)


def test_a_checkpoint_of_another_network_is_refused() -> None:
    store = MemoryStore()
    train(short_recipe(), checkpoints=store)
    other = registry.NETWORKS["mnist-simplecnn"].classifier(classes=7)
    with pytest.raises(TrainingError, match="does not fit this network and code"):
        loop.train(other, *splits(), short_recipe(), device=CPU, checkpoints=store)


def test_without_a_validation_split_the_last_weights_are_kept() -> None:
    training, validation = splits()
    model = NETWORK.classifier()
    a_recipe = short_recipe(epochs=2, ema_fraction=0.0, validation_share=0.0)
    reports: list[TrainingProgress] = []
    result = loop.train(model, training, validation[:0], a_recipe, device=CPU, listeners=[reports.append])
    assert result.validation_accuracy is None
    assert [report.validation_accuracy for report in reports] == [None, None]
    assert [report.validation_loss for report in reports] == [None, None]
    assert [report.epoch_ended for report in reports] == [True, True]


def test_watching_the_test_split_gives_its_curve_and_changes_no_weight() -> None:
    training, validation = splits()
    weights, curves = [], []
    for test in (None, SAMPLE.test[:100]):
        reports: list[TrainingProgress] = []
        torch.manual_seed(0)
        model = NETWORK.classifier()
        recipe = short_recipe(epochs=2, ema_fraction=0.0)
        loop.train(model, training, validation[:0], recipe, device=CPU, test=test, listeners=[reports.append])
        weights.append(torch.cat([parameter.flatten() for parameter in model.parameters()]))
        curves.append([(report.test_accuracy, report.test_loss) for report in reports])
    assert torch.equal(*weights)
    assert curves[0] == [(None, None), (None, None)]
    probabilities = predict(model, SAMPLE.test[:100].images)
    expected = torch.nn.functional.nll_loss(probabilities.log(), SAMPLE.test[:100].labels).item()
    assert curves[1][1][1] == pytest.approx(expected)
    assert curves[1][1][0] == pytest.approx((probabilities.argmax(1) == SAMPLE.test[:100].labels).float().mean().item())


def test_progress_is_reported_up_to_the_last_step() -> None:
    reports: list[TrainingProgress] = []
    train(short_recipe(epochs=2), reports.append)
    assert [report.step for report in reports if report.validation_accuracy is not None] == [5, 10]
    assert (reports[-1].steps, reports[-1].images) == (10, 1000)
    assert reports[-1].loss < reports[0].loss


def test_progress_is_of_the_steps_since_the_last_report_and_of_the_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    reports: list[TrainingProgress] = []
    losses: list[float] = []
    train_step = Trainer.train_step

    def recorded(a_trainer: Trainer, batch: torch.Tensor) -> torch.Tensor:
        loss = train_step(a_trainer, batch)
        losses.append(loss.item())
        return loss

    monkeypatch.setattr(Trainer, "train_step", recorded)
    monkeypatch.setattr("training.trainer.progress.REPORT_EVERY_STEPS", 2)
    train(short_recipe(epochs=2, batch_size=125), reports.append)  # 4 steps an epoch
    assert [report.step for report in reports] == [2, 4, 6, 8]
    for report in reports:
        first = 4 * (report.epoch - 1)
        assert report.loss == pytest.approx(sum(losses[report.step - 2 : report.step]) / 2)
        assert report.epoch_loss == pytest.approx(sum(losses[first : report.step]) / (report.step - first))


def test_images_per_second_are_those_since_the_last_report_without_validation(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    train_step, measure = Trainer.train_step, Trainer.measure

    def slower_and_slower(a_trainer: Trainer, batch: torch.Tensor) -> torch.Tensor:
        nonlocal now
        now += 1 if a_trainer.step < 5 else 10
        return train_step(a_trainer, batch)

    def slow(a_trainer: Trainer, split: Split | None) -> tuple[float | None, float | None]:
        nonlocal now
        now += 1000
        return measure(a_trainer, split)

    reports: list[TrainingProgress] = []
    monkeypatch.setattr("time.perf_counter", lambda: now)
    monkeypatch.setattr(Trainer, "train_step", slower_and_slower)
    monkeypatch.setattr(Trainer, "measure", slow)
    train(short_recipe(epochs=2), reports.append)
    assert [report.images_per_second for report in reports] == [100, 10]


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


def test_class_weights_are_the_inverse_of_the_frequencies() -> None:
    labels = torch.tensor([0, 0, 0, 2])
    weights = loop._class_weights(Split(torch.zeros(4, 1, 1, 1), labels))
    assert weights[labels].mean() == 1 and weights[2] == 3 * weights[0]


@pytest.mark.parametrize(
    ("losses", "patience", "ends"),
    [
        ([3, 2, 1], 1, False),
        ([1, 2], 1, True),
        ([1, 2], 2, False),
        ([1, 2, 3], 2, True),
        ([1, 2, 3], 0, False),
        ([], 1, False),
    ],
)
def test_patience_ends_after_epochs_without_a_lower_validation_loss(
    losses: list[float], patience: int, ends: bool
) -> None:
    trainer = Trainer(NETWORK.classifier(), *splits(), short_recipe(patience=patience), CPU, SINGLE_PROCESS)
    trainer.validation_losses = losses
    assert trainer._out_of_patience() is ends


def test_a_run_out_of_patience_says_how_many_epochs_it_trained() -> None:
    _, result = train(short_recipe(epochs=30, patience=1, one_cycle=False, learning_rate=0.1))
    assert result.epochs < 30
