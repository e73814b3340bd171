"""The trainer: checkpoints, progress, the validation split, and errors that name the setting to change."""

import dataclasses
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from training import datasets, device, networks, progress, recipe, trainer
from training.augment import (
    DIGIT_AUGMENTATION,
    NO_AUGMENTATION,
    PHOTO_AUGMENTATION,
    RANDOM_NUMBERS_PER_IMAGE,
    Augmentation,
    augmentation_for,
)
from training.dataset import Dataset, Split, split_validation
from training.errors import OutOfMemory, TrainingError
from training.progress import ProgressListener, TrainingProgress
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
    model = networks.Classifier(NETWORK)
    a_recipe = short_recipe(epochs=2, ema_fraction=0.0, validation_fraction=0.0)
    reports: list[TrainingProgress] = []
    result = trainer.train(model, training, validation[:0], a_recipe, device=CPU, listeners=[reports.append])
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


def test_the_cpu_allocators_error_is_recognized_as_out_of_memory() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert device.is_out_of_memory(caught.value)


def test_a_batch_larger_than_the_training_split_is_refused() -> None:
    with pytest.raises(TrainingError, match="--batch-size 1000 is more than the 500 training images"):
        train(short_recipe(batch_size=1000))


def test_the_reference_recipe_is_that_of_the_networks_sources() -> None:
    expected = {"mnist-simplecnn": (5, 64), "mnist-cnn": (4, 64), "cifar10-cnn": (10, 32), "cifar10-lenet": (2, 100)}
    for name, (epochs, batch_size) in expected.items():
        network = networks.NETWORKS[name]
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
    normalized = networks.Classifier(NETWORK, normalization=normalization).normalize(training.images)
    assert abs(normalized.mean()) < 1e-3 and abs(normalized.std() - 1) < 1e-3
    black = Split(torch.zeros(3, 28, 28, 1, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64))
    assert recipe.normalization_for(short_recipe(), NETWORK, black) == networks.Normalization(0.0, 1.0)


# --- augmentation ---


def test_shifts_and_flips_move_whole_pixels_without_blur() -> None:
    images = torch.zeros(4000, 9, 9, 1, dtype=torch.uint8)
    images[:, 4, 3] = 255
    images[:, 4, 4] = 100
    augmented = Augmentation(shift=2, flip=True)(images, torch.rand(4000, RANDOM_NUMBERS_PER_IMAGE)).round()
    assert augmented.shape == images.shape
    assert {tuple(image.unique().tolist()) for image in augmented} == {(0, 100, 255)}
    positions = {tuple((image[:, :, 0] == 255).nonzero()[0].tolist()) for image in augmented}
    assert positions == {(y, x) for y in range(2, 7) for x in range(1, 8)}  # x is 3 or, flipped, 5, each ± 2
    flipped = [int((image == 255).nonzero()[0, 1]) > int((image == 100).nonzero()[0, 1]) for image in augmented]
    assert 0.45 < sum(flipped) / 4000 < 0.55


def test_a_shift_pads_with_zeros_or_by_reflection() -> None:
    image = torch.full((1, 8, 8, 1), 7, dtype=torch.uint8)
    numbers = torch.full((1, RANDOM_NUMBERS_PER_IMAGE), 0.999)
    assert Augmentation(shift=2)(image, numbers).round().unique().tolist() == [0, 7]
    assert PHOTO_AUGMENTATION(image, numbers).round().unique().tolist() == [7]


def test_rotation_and_zoom_keep_the_centre_and_three_quarters_of_the_ink() -> None:
    image = torch.zeros(64, 29, 29, 1, dtype=torch.uint8)
    image[:, 8:21, 14] = 255
    rotated = Augmentation(degrees=90)(image, torch.ones(64, RANDOM_NUMBERS_PER_IMAGE))
    torch.testing.assert_close(rotated[0, 14, 8:21, 0], torch.full((13,), 255.0), atol=0.1, rtol=0)
    augmented = DIGIT_AUGMENTATION(image, torch.rand(64, RANDOM_NUMBERS_PER_IMAGE))
    assert (augmented.sum((1, 2, 3)) / image.float().sum((1, 2, 3))).min() > 0.75


def test_digits_are_not_flipped_and_images_of_unknown_content_are_only_shifted() -> None:
    assert not augmentation_for("mnist").flip and augmentation_for("cifar10").flip
    other = augmentation_for("folder:mine")
    assert not other.flip and not other.zoom and not other.degrees and other.shift


# --- progress display ---


PROGRESS = TrainingProgress(
    epoch=1, epochs=2, step=50, steps=100, images=500, loss=0.5, accuracy=0.8, learning_rate=1e-3, epoch_ended=True,
    validation_accuracy=0.9,
)  # fmt: skip


def test_a_log_gets_one_line_without_control_codes_per_epoch(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.LogLines() as show:
        show(dataclasses.replace(PROGRESS, step=25, images=250, epoch_ended=False, validation_accuracy=None))
        show(PROGRESS)
        show(dataclasses.replace(PROGRESS, epoch=2, step=100, images=1000, validation_accuracy=None))
    first, second = capsys.readouterr().out.splitlines()
    for text in ("epoch 1/2", "loss 0.500", "accuracy 80.0%", "validation 90.00%", "images/s", "s left"):
        assert text in first
    assert "epoch 2/2" in second and "validation" not in second
    assert "\x1b" not in first


def test_the_throughput_of_a_resumed_run_excludes_the_images_before(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([100.0, 110.0, 120.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    throughput = progress.Throughput()  # of a run that is resumed at step 1,000
    assert throughput(dataclasses.replace(PROGRESS, step=1025, images=10_250)) == 25.0
    assert throughput(dataclasses.replace(PROGRESS, step=1050, images=10_500)) == 25.0


def test_a_terminal_gets_a_progress_bar_with_loss_accuracy_and_images_per_second() -> None:
    import io

    from rich.console import Console

    screen = io.StringIO()
    with progress.ProgressBar(Console(file=screen, force_terminal=True, width=140)) as show:
        show(PROGRESS)
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", screen.getvalue())
    for text in ("loss 0.500", "accuracy 80.0%", "50%", "images/s", "━"):
        assert text in shown
