"""Weights to start from: of a checkpoint or a published graph, for the same network and the same or other classes."""

from pathlib import Path

import pytest
import torch

from tests.support.training import NETWORK
from training.errors import InvalidSetting, TrainingError
from training.networks.classifier import Classifier, Normalization
from training.networks.registry import NETWORKS
from training.runs.initial_weights import InitialWeights, initialize, normalization_of, read

TEN = tuple("0123456789")


def initial(source: Classifier, labels: tuple[str, ...] = TEN) -> InitialWeights:
    return InitialWeights(source.state_dict(), labels, Path("runs/source"))


def test_all_layers_are_taken_if_the_classes_are_as_many() -> None:
    source, model = NETWORK.classifier(normalization=Normalization(0.1307, 0.3081)), NETWORK.classifier()
    assert not initialize(model, initial(source), TEN)
    assert all(torch.equal(tensor, source.state_dict()[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("labels", [("a", "b", "c"), tuple("abcdefghij")])
def test_the_last_layer_stays_random_if_the_classes_are_others(labels: tuple[str, ...]) -> None:
    source, model = NETWORK.classifier(), NETWORK.classifier(classes=len(labels))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert initialize(model, initial(source), labels)
    after = model.state_dict()
    for name in after:
        expected = before if name.startswith("body.10.") else source.state_dict()
        assert torch.equal(after[name], expected[name]), name


def test_weights_of_another_network_are_refused_by_the_name_of_the_layer() -> None:
    with pytest.raises(
        InvalidSetting, match=r"body.0.weight has shape \[6, 3, 5, 5\], this network's has \[32, 3, 3, 3\]"
    ):
        initialize(NETWORKS["cifar10-cnn"].classifier(), initial(NETWORKS["cifar10-lenet"].classifier()), TEN)
    with pytest.raises(InvalidSetting, match="no body"):
        initialize(NETWORKS["mnist-teacher"].classifier(), initial(NETWORK.classifier()), TEN)


@pytest.mark.parametrize(
    "normalization", [Normalization(0.1307, 0.3081), Normalization(0.0, 1.0), Normalization(0.5, 0.5)]
)
def test_the_normalization_of_the_source_is_kept(normalization: Normalization) -> None:
    assert normalization_of(NETWORK.classifier(normalization=normalization).state_dict()) == normalization


def test_a_folder_that_is_neither_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="expected a run folder"):
        read(tmp_path)
