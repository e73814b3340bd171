"""Training may start from the weights of a published version."""

from pathlib import Path

from tests.support.training import NETWORK
from training.runs.initial_weights import initialize, normalization_of, read


def test_a_published_version_gives_its_weights_and_normalization(published: Path) -> None:
    initial = read(published / "mnist-simplecnn" / "1")
    model = NETWORK.classifier()
    assert not initialize(model, initial, initial.labels)
    assert initial.weights["body.0.weight"].shape == (32, 1, 3, 3)
    assert 0.1 < normalization_of(initial.weights).mean < 0.2
