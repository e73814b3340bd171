"""The accuracy gate: what a constant answer reaches is not published."""

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from service.pictures.fit import Fit
from tests.support.training import NETWORK, SAMPLE, short_recipe
from training.data.dataset import Dataset, Split
from training.errors import GateError
from training.experiment import Experiment, better_than_a_constant, repeat_command
from training.networks.classifier import Normalization
from training.settings import Settings


def experiment(*counts: int, name: str = "mine", **values: object) -> Experiment:
    """An experiment whose test split has these numbers of images of each class."""
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    test = Split(torch.zeros(len(labels), 28, 28, 1, dtype=torch.uint8), labels)
    return Experiment(
        settings=Settings(_cli_parse_args=[], **values),  # type: ignore[arg-type, call-arg]
        name=name,
        network=NETWORK,
        dataset=Dataset("folder:mine", SAMPLE.train, test, tuple(map(str, range(len(counts))))),
        fit=Fit("drawing"),
        training=SAMPLE.train,
        validation=SAMPLE.train,
        recipe=short_recipe(),
        normalization=Normalization(0.5, 0.5),
    )


@given(st.lists(st.integers(0, 2000), min_size=2, max_size=12).filter(lambda counts: sum(map(bool, counts)) > 1))
def test_no_constant_answer_passes_the_default_gate_and_a_perfect_network_does(counts: list[int]) -> None:
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    gate = better_than_a_constant(labels)
    for count in counts:
        assert count / sum(counts) < gate.accuracy <= 1.0


def test_the_default_gate_is_two_standard_errors_above_the_commonest_class() -> None:
    mine = experiment(60, 40)
    mine.check_accuracy(0.70)
    with pytest.raises(GateError) as caught:
        mine.check_accuracy(0.69)
    assert str(caught.value) == (
        "test accuracy 69.00% is below 69.80%, which no constant answer reaches: the commonest class has 60.00% of 100 "
        "test images, and two standard errors are 9.80 points (--min-accuracy sets another gate); nothing was published"
    )


def test_a_test_split_of_one_class_has_no_gate_but_one_that_is_set() -> None:
    with pytest.raises(GateError, match="all 7 test images are of one class, so that their accuracy says nothing"):
        experiment(7, 0).gate()
    experiment(7, 0, min_accuracy=0.9).check_accuracy(0.9)


def test_a_gate_that_is_set_replaces_the_others() -> None:
    experiment(60, 40, min_accuracy=0.0).check_accuracy(0.0)
    with pytest.raises(GateError, match=r"is below --min-accuracy 70\.00%; nothing was published$"):
        experiment(60, 40, min_accuracy=0.7).check_accuracy(0.69)


def test_under_its_own_name_a_network_has_its_own_gate_and_never_a_lower_one_than_others() -> None:
    own = experiment(*[10] * 10, name=NETWORK.name)
    assert own.gate().accuracy == NETWORK.min_accuracy == 0.9
    without = dataclasses.replace(own, network=dataclasses.replace(NETWORK, min_accuracy=0.0))
    assert without.gate() == experiment(*[10] * 10).gate()


def test_the_command_that_repeats_a_run_gives_every_item_of_a_flag() -> None:
    given = experiment(
        6, 4, set=("ema_fraction=0.1", "augmentation.degrees=5"), class_weights=True, teacher=("runs/a b",)
    )
    command = repeat_command(given.settings)
    assert command.endswith("--teacher 'runs/a b' --class-weights --set ema_fraction=0.1 --set augmentation.degrees=5")


def test_the_public_command_has_no_paths() -> None:
    given = experiment(
        6, 4, dataset="folder:/home/me/cats", init_from="/home/me/runs/one", teacher=("/home/me/runs/two",)
    )
    command = repeat_command(given.settings, public=True)
    assert command.endswith("--dataset folder:cats --teacher two --init-from one")
    assert "/home/me/cats" in repeat_command(given.settings)
