"""Training may start from the weights of a published version."""

from pathlib import Path

from tests.support.training import NETWORK
from training.runs.initial_weights import initialize, normalization_of, read


def test_a_published_version_gives_its_weights_and_normalization(published: Path) -> None:
    weights = read(published / "mnist-simplecnn" / "1")
    model = NETWORK.classifier()
    assert not initialize(model, weights, Path("runs/source"))
    assert weights["body.0.weight"].shape == (32, 1, 3, 3) and 0.1 < normalization_of(weights).mean < 0.2
