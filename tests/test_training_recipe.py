"""The network is the table's, and the recipe finds the same weights again."""

import math
from pathlib import Path

import pytest
import torch

from training import data, networks, progress, recipe
from training.errors import TrainingError
from training.recipe import Recipe, Step

CPU = torch.device("cpu")
NETWORK = networks.NETWORKS["mnist-simplecnn"]


def parts(count: int = 600) -> tuple[data.Part, data.Part]:
    """A few real digits to train on and to select by."""
    sample = data.load("mnist-sample", Path("unused"))
    return data.split(sample.train[torch.arange(count)], validation=100, seed=0)


def flat(model: torch.nn.Module) -> torch.Tensor:
    """A copy of all weights as one vector."""
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def test_mnist_simplecnn_is_the_tables_layer_for_layer() -> None:
    model = NETWORK.build()
    layers = [layer for layer in model.modules() if not list(layer.children())]
    described = [type(layer).__name__ for layer in layers]
    assert described == [
        "Conv2d", "ReLU", "MaxPool2d", "Conv2d", "ReLU", "MaxPool2d", "Flatten", "Linear", "ReLU", "Dropout", "Linear",
    ]  # fmt: skip
    shapes = [tuple(parameter.shape) for parameter in model.parameters()]
    assert shapes == [(32, 1, 3, 3), (32,), (64, 32, 3, 3), (64,), (128, 3136), (128,), (10, 128), (10,)]
    assert sum(parameter.numel() for parameter in model.parameters()) == 421_642
    assert layers[9].p == 0.5


def test_raw_pixels_are_scaled_as_the_table_says_and_answers_are_probabilities() -> None:
    model = networks.Classifier(NETWORK, NETWORK.build()).eval()
    images = torch.arange(256, dtype=torch.uint8).repeat(28 * 28 * 2 // 256 + 1)[: 2 * 28 * 28].reshape(2, 28, 28, 1)
    expected = (images.permute(0, 3, 1, 2) / 255 - 0.5) / 0.5
    torch.testing.assert_close(model.prepare(images), expected)
    torch.testing.assert_close(model(images).sum(1), torch.ones(2))


def test_the_same_seed_gives_the_same_weights_and_another_seed_others() -> None:
    def weights(seed: int) -> torch.Tensor:
        how = Recipe(epochs=1, batch_size=50, seed=seed)
        model, _ = recipe.train(NETWORK, parts(), how, device=CPU, report=lambda _: None)
        return flat(model)

    first = weights(1)
    assert torch.equal(first, weights(1))
    assert not torch.equal(first, weights(2))


def test_the_weights_that_did_best_on_the_validation_part_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = iter([0.2, 0.9, 0.5])
    seen: list[torch.Tensor] = []

    def score(model: torch.nn.Module, _: data.Part) -> float:
        seen.append(flat(model))
        return next(scores)

    monkeypatch.setattr(recipe, "accuracy", score)
    how = Recipe(epochs=3, batch_size=100, seed=0)
    model, selected = recipe.train(NETWORK, parts(), how, device=CPU, report=lambda _: None)
    assert selected == 0.9
    assert torch.equal(flat(model), seen[1])


def test_progress_is_reported_to_the_last_step() -> None:
    states: list[Step] = []
    recipe.train(NETWORK, parts(), Recipe(epochs=2, batch_size=100, seed=0), device=CPU, report=states.append)
    assert [state.step for state in states if state.validation is not None] == [5, 10]
    assert (states[-1].steps, states[-1].images) == (10, 1000)
    assert states[-1].loss < states[0].loss


def test_a_loss_that_is_no_number_stops_with_the_step() -> None:
    how = Recipe(epochs=1, batch_size=100, seed=0, learning_rate=math.inf)
    with pytest.raises(TrainingError, match="the loss is nan at step"):
        recipe.train(NETWORK, parts(), how, device=CPU, report=lambda _: None)


def test_a_batch_larger_than_the_data_is_refused() -> None:
    with pytest.raises(TrainingError, match="--batch-size 1000 is more than the 500 training images"):
        recipe.train(NETWORK, parts(), Recipe(1, 1000, 0), device=CPU, report=lambda _: None)


def test_a_shift_moves_an_image_whole_and_fills_with_background() -> None:
    images = torch.zeros(200, 9, 9, 1, dtype=torch.uint8)
    images[:, 4, 4] = 255
    moved = recipe.shift_randomly(images, 2, torch.Generator().manual_seed(0))
    assert moved.shape == images.shape and moved.dtype == torch.uint8
    assert moved.flatten(1).count_nonzero(1).tolist() == [1] * 200
    positions = {tuple(position[1:3].tolist()) for position in moved.nonzero()}
    assert positions == {(y, x) for y in range(2, 7) for x in range(2, 7)}
    corner = torch.full((1, 9, 9, 1), 7, dtype=torch.uint8)
    assert set(recipe.shift_randomly(corner, 1, torch.Generator().manual_seed(0)).unique().tolist()) <= {0, 7}


STATE = Step(epoch=1, epochs=2, step=5, steps=10, images=500, loss=0.5, accuracy=0.8, validation=0.9)


def test_a_log_gets_a_plain_line_an_epoch(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.Lines() as report:
        report(Step(epoch=1, epochs=2, step=2, steps=10, images=200, loss=0.6, accuracy=0.7))
        report(STATE)
    (line,) = capsys.readouterr().out.splitlines()
    for part in ("epoch 1/2", "loss 0.500", "accuracy 80.0%", "validation 90.00%", "images/s", "s left"):
        assert part in line
    assert "\x1b" not in line


def test_a_terminal_gets_a_bar_with_loss_accuracy_speed_and_time() -> None:
    import io

    from rich.console import Console

    screen = io.StringIO()
    with progress.Bar(Console(file=screen, force_terminal=True, width=140)) as report:
        report(STATE)
    text = screen.getvalue()
    for part in ("loss 0.500", "accuracy 80.0%", "50%", "images/s", "━"):
        assert part in text
