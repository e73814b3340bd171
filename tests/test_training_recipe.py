"""The recipe finds the same weights again, alone or in company, at once or in two goes."""

import dataclasses
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from training import data, networks, progress, recipe, sources
from training.augment import DIGITS, NONE, NUMBERS, PHOTOS, Augmentation, augmentation_for
from training.errors import Interrupted, OutOfMemory, TrainingError
from training.recipe import Recipe, Step, recipe_for

CPU = torch.device("cpu")
NETWORK = networks.NETWORKS["mnist-simplecnn"]
SAMPLE = sources.load("mnist-sample", Path("unused"))


def parts(count: int = 600) -> tuple[data.Part, data.Part]:
    """A few real digits to train on and to select by."""
    return data.split(SAMPLE.train[torch.arange(count)], validation=100, seed=0)


def how(**changes: Any) -> Recipe:
    """A short recipe."""
    return dataclasses.replace(Recipe("best", epochs=1, batch_size=100, seed=0, augmentation=DIGITS), **changes)


def flat(model: torch.nn.Module) -> torch.Tensor:
    """A copy of all weights as one vector."""
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def trained(
    a_recipe: Recipe, report: Callable[[Step], None] = lambda _: None, **more: Any
) -> tuple[networks.Classifier, float]:
    """A network trained so, and its validation accuracy."""
    torch.manual_seed(a_recipe.seed)
    model = networks.Classifier(NETWORK)
    return model, recipe.train(model, parts(), a_recipe, device=CPU, report=report, **more)[0]


class Memory:
    """A keeper that keeps in memory, as bytes would be kept."""

    def __init__(self) -> None:
        self.state: dict[str, Any] | None = None
        self.steps: list[int] = []

    def load(self) -> dict[str, Any] | None:
        return self.state

    def save(self, state: dict[str, Any]) -> None:
        self.state = _copied(state)
        self.steps.append(state["step"])


def _copied(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.clone()
    if isinstance(value, dict):
        return {key: _copied(one) for key, one in value.items()}
    return value


def test_the_same_seed_gives_the_same_weights_and_another_seed_others() -> None:
    first = flat(trained(how(seed=1))[0])
    assert torch.equal(first, flat(trained(how(seed=1))[0]))
    assert not torch.equal(first, flat(trained(how(seed=2))[0]))


@pytest.mark.parametrize("stop_at", [1, 4, 5, 7])
@pytest.mark.parametrize("kind", ["best", "paper"])
def test_a_run_that_was_stopped_goes_on_to_the_same_bits(kind: str, stop_at: int) -> None:
    short = dataclasses.replace(
        recipe_for(kind, NETWORK, SAMPLE, seed=0), epochs=2, batch_size=100, augmentation=DIGITS
    )
    whole = Memory()
    expected = flat(trained(short, keeper=whole)[0])
    asked = iter(range(1, 100))
    kept = Memory()
    with pytest.raises(Interrupted, match=f"stopped at step {stop_at} of 10"):
        trained(short, keeper=kept, stopping=lambda: next(asked) == stop_at)
    assert kept.steps[-1] == stop_at
    model, _ = trained(short, keeper=kept)
    assert torch.equal(flat(model), expected)
    assert whole.state is not None and kept.state is not None
    assert torch.equal(whole.state["sums"], kept.state["sums"]) and whole.steps == [5, 10]


def test_the_time_that_a_run_took_is_that_of_all_its_goes() -> None:
    kept = Memory()
    trained(how(epochs=2), keeper=kept)
    assert kept.state is not None
    kept.state["seconds"] += 1000
    torch.manual_seed(0)
    _, seconds = recipe.train(
        networks.Classifier(NETWORK), parts(), how(epochs=2), device=CPU, report=lambda _: None, keeper=kept
    )
    assert 1000 < seconds < 1100


def test_a_checkpoint_of_other_settings_is_refused() -> None:
    kept = Memory()
    trained(how(), keeper=kept)
    with pytest.raises(TrainingError, match="of a run with other settings"):
        trained(how(learning_rate=1e-3), keeper=kept)


def test_the_weights_that_did_best_on_the_validation_part_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = iter([20, 90, 50])
    seen: list[torch.Tensor] = []

    def predict(model: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
        seen.append(flat(model))
        right = next(scores)
        return torch.nn.functional.one_hot(torch.where(torch.arange(100) < right, labels, (labels + 1) % 10)).float()

    labels = parts()[1].labels
    monkeypatch.setattr(recipe, "predict", predict)
    model, selected = trained(how(epochs=3))
    assert selected == 0.9
    assert torch.equal(flat(model), seen[1])


def test_without_a_validation_part_the_last_weights_are_kept() -> None:
    training, validation = parts()
    model = networks.Classifier(NETWORK)
    plain = how(epochs=2, averaging=0.0, validation=0.0)
    states: list[Step] = []
    selected, _ = recipe.train(model, (training, validation[:0]), plain, device=CPU, report=states.append)
    assert math.isnan(selected) and [state.validation for state in states] == [None, None]
    assert [state.ended for state in states] == [True, True]


def test_progress_is_reported_to_the_last_step() -> None:
    states: list[Step] = []
    trained(how(epochs=2), states.append)
    assert [state.step for state in states if state.validation is not None] == [5, 10]
    assert (states[-1].steps, states[-1].images) == (10, 1000)
    assert states[-1].loss < states[0].loss


@pytest.mark.parametrize("bad", [1, 3, 5, 6])
def test_a_loss_that_is_no_number_stops_with_its_step_and_keeps_the_last_good_checkpoint(
    monkeypatch: pytest.MonkeyPatch, bad: int
) -> None:
    kept, take_step = Memory(), recipe.Run.take_step

    def spoilt(run: recipe.Run, batch: torch.Tensor) -> torch.Tensor:
        loss = take_step(run, batch)
        return loss * math.nan if run.step + 1 == bad else loss

    monkeypatch.setattr(recipe.Run, "take_step", spoilt)
    with pytest.raises(TrainingError, match=f"the loss is no number at step {bad} of 10"):
        trained(how(epochs=2), keeper=kept)
    assert kept.steps == ([5] if bad > 5 else [])


def test_a_learning_rate_without_bound_is_such_a_case() -> None:
    with pytest.raises(TrainingError, match="the loss is no number at step"):
        trained(how(learning_rate=math.inf))


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9999 bytes."),
        MemoryError(),
    ],
)
def test_too_little_memory_says_which_setting_to_lower(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(recipe.Run, "take_step", fail)
    with pytest.raises(OutOfMemory, match="batches of 100 images: lower --batch-size"):
        trained(how())


def test_the_cpus_allocator_says_what_is_looked_for() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert recipe._is_out_of_memory(caught.value)


def test_a_batch_larger_than_the_data_is_refused() -> None:
    with pytest.raises(TrainingError, match="--batch-size 1000 is more than the 500 training images"):
        trained(how(batch_size=1000))


def test_paper_is_what_was_reported() -> None:
    expected = {"mnist-simplecnn": (5, 64), "mnist-cnn": (4, 64), "cifar10-cnn": (10, 32), "cifar10-lenet": (2, 100)}
    for name, (epochs, batch_size) in expected.items():
        network = networks.NETWORKS[name]
        paper = recipe_for("paper", network, SAMPLE, seed=3)
        assert (paper.epochs, paper.batch_size, paper.learning_rate, paper.seed) == (epochs, batch_size, 1e-3, 3)
        assert (paper.one_cycle, paper.weight_decay, paper.label_smoothing, paper.averaging) == (False, 0, 0, 0)
        assert paper.augmentation == NONE and paper.validation == 0 and not paper.narrow
        assert recipe.scaling_for(paper, network, parts()[0]) == network.scaling


@pytest.mark.parametrize(("images", "batch_size"), [(60_000, 256), (10_000, 200), (5_000, 100), (30, 8)])
def test_few_images_take_smaller_batches(images: int, batch_size: int) -> None:
    part = data.Part(torch.zeros(images, 1, 1, 1), torch.zeros(images))
    few = recipe_for("best", NETWORK, data.Dataset("mine", part, part, ()), seed=0)
    assert (few.epochs, few.batch_size) == (25, batch_size)
    given = recipe_for("best", NETWORK, data.Dataset("mine", part, part, ()), seed=0, epochs=3, batch_size=7)
    assert (given.epochs, given.batch_size) == (3, 7)


def test_best_scales_to_mean_0_and_deviation_1_over_what_it_trains_on() -> None:
    training, _ = parts()
    scaling = recipe.scaling_for(how(), NETWORK, training)
    seen = networks.Classifier(NETWORK, scaling=scaling).prepare(training.images)
    assert abs(seen.mean()) < 1e-3 and abs(seen.std() - 1) < 1e-3
    black = data.Part(torch.zeros(3, 28, 28, 1, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64))
    assert recipe.scaling_for(how(), NETWORK, black) == networks.Scaling(0.0, 1.0)


# --- augmentation ---


def test_an_image_is_moved_by_whole_pixels_and_mirrored_without_blur() -> None:
    images = torch.zeros(4000, 9, 9, 1, dtype=torch.uint8)
    images[:, 4, 3] = 255
    images[:, 4, 4] = 100
    moved = Augmentation(shift=2, mirror=True)(images, torch.rand(4000, NUMBERS)).round()
    assert moved.shape == images.shape
    assert {tuple(one.unique().tolist()) for one in moved} == {(0, 100, 255)}
    places = {tuple((one[:, :, 0] == 255).nonzero()[0].tolist()) for one in moved}
    assert places == {(y, x) for y in range(2, 7) for x in range(1, 8)}  # 3 and, mirrored, 5, each ± 2
    mirrored = [int((one == 255).nonzero()[0, 1]) > int((one == 100).nonzero()[0, 1]) for one in moved]
    assert 0.45 < sum(mirrored) / 4000 < 0.55


def test_a_border_is_background_or_reflection() -> None:
    image = torch.full((1, 8, 8, 1), 7, dtype=torch.uint8)
    numbers = torch.full((1, NUMBERS), 0.999)
    assert Augmentation(shift=2)(image, numbers).round().unique().tolist() == [0, 7]
    assert PHOTOS(image, numbers).round().unique().tolist() == [7]


def test_turning_and_zooming_keep_the_middle_and_the_amount_of_ink() -> None:
    image = torch.zeros(64, 29, 29, 1, dtype=torch.uint8)
    image[:, 8:21, 14] = 255
    turned = Augmentation(degrees=90)(image, torch.ones(64, NUMBERS))
    torch.testing.assert_close(turned[0, 14, 8:21, 0], torch.full((13,), 255.0), atol=0.1, rtol=0)
    changed = DIGITS(image, torch.rand(64, NUMBERS))
    assert (changed.sum((1, 2, 3)) / image.float().sum((1, 2, 3))).min() > 0.75


def test_digits_are_not_mirrored_and_nothing_unknown_is_turned() -> None:
    assert not augmentation_for("mnist").mirror and augmentation_for("cifar10").mirror
    other = augmentation_for("folder:mine")
    assert not other.mirror and not other.degrees and other.shift


# --- what a person sees ---


STATE = Step(
    epoch=1, epochs=2, step=50, steps=100, images=500, loss=0.5, accuracy=0.8, learning_rate=1e-3, ended=True,
    validation=0.9,
)  # fmt: skip


def test_a_log_gets_a_plain_line_an_epoch(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.Lines() as report:
        report(dataclasses.replace(STATE, step=25, images=250, ended=False, validation=None))
        report(STATE)
        report(dataclasses.replace(STATE, epoch=2, step=100, images=1000, validation=None))
    first, second = capsys.readouterr().out.splitlines()
    for part in ("epoch 1/2", "loss 0.500", "accuracy 80.0%", "validation 90.00%", "images/s", "s left"):
        assert part in first
    assert "epoch 2/2" in second and "validation" not in second
    assert "\x1b" not in first


def test_speed_is_of_what_was_done_here(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([100.0, 110.0, 120.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    speed = progress.Speed()  # of a run that is continued at step 1,000
    assert speed(dataclasses.replace(STATE, step=1025, images=10_250)) == 25.0
    assert speed(dataclasses.replace(STATE, step=1050, images=10_500)) == 25.0


def test_a_terminal_gets_a_bar_with_loss_accuracy_speed_and_time() -> None:
    import io

    from rich.console import Console

    screen = io.StringIO()
    with progress.Bar(Console(file=screen, force_terminal=True, width=140)) as report:
        report(STATE)
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", screen.getvalue())
    for part in ("loss 0.500", "accuracy 80.0%", "50%", "images/s", "━"):
        assert part in text
