"""Networks of any shape are trained, published and served: the job takes no layer and no container for granted."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from service.client import Client
from tests.integration.training.conftest import RunJob
from tests.support.local_service import local_service
from training.data.dataset import Dataset
from training.networks.classifier import Normalization
from training.networks.pooling import Pooling
from training.networks.registry import NETWORKS, Hyperparameters, Network


def mlp(_: Pooling, classes: int) -> nn.Module:
    """No convolution, and nothing to pool."""
    return nn.Sequential(nn.Flatten(), nn.Linear(28 * 28, 32), nn.ReLU(), nn.Linear(32, classes))


class Residual(nn.Module):
    """A block whose layers are in a Sequential of its own, and whose input takes part in its output."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU(), nn.Conv2d(channels, channels, 3, padding=1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.layers(x))


def nested(pooling: Pooling, classes: int) -> nn.Module:
    """Blocks in blocks."""
    stem = nn.Sequential(nn.Conv2d(1, 8, 5, stride=2, padding=2), nn.Sequential(nn.ReLU(), pooling.last_layer(8)))
    head = nn.Sequential(nn.Flatten(), nn.Linear(8 * pooling.last_output_size(14) ** 2, classes))
    return nn.Sequential(stem, Residual(8), head)


class Functional(nn.Module):
    """No Sequential: pooling, ReLU and flattening are functions, which no hook sees."""

    def __init__(self, _: Pooling, classes: int) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 8, 3), nn.Conv2d(8, 16, 3)
        self.out = nn.Linear(16 * 5 * 5, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.first(x)), 2)  # (N, 8, 13, 13)
        x = F.max_pool2d(F.relu(self.second(x)), 2)  # (N, 16, 5, 5)
        result: Tensor = self.out(torch.flatten(x, 1))
        return result


def normalized(pooling: Pooling, classes: int) -> nn.Module:
    """BatchNorm, whose running averages are no parameters."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        pooling.last_layer(8),
        nn.Flatten(),
        nn.Linear(8 * pooling.last_output_size(28) ** 2, 32),
        nn.BatchNorm1d(32),
        nn.ReLU(),
        nn.Linear(32, classes),
    )


def strided(_: Pooling, classes: int) -> nn.Module:
    """Convolutions without bias, strided, dilated, in groups and not square, in place of pooling."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 5, stride=2, bias=False),  # (N, 8, 12, 12)
        nn.GELU(),
        nn.Conv2d(8, 16, (3, 5), stride=(2, 1), dilation=2, groups=4, bias=False),  # (N, 16, 4, 4)
        nn.LeakyReLU(),
        nn.Flatten(),
        nn.Linear(16 * 4 * 4, classes, bias=False),
    )


SHAPES = {"mlp": mlp, "nested": nested, "functional": Functional, "normalized": normalized, "strided": strided}
QUICK = {"mlp", "functional"}


@pytest.mark.parametrize(
    "shape", [pytest.param(shape, marks=() if shape in QUICK else pytest.mark.slow) for shape in SHAPES]
)
def test_a_network_of_any_shape_is_trained_published_and_served(
    shape: str, few_digits: Dataset, run_job: RunJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = Hyperparameters(3, 50, 4e-3)
    network = Network(shape, SHAPES[shape], (28, 28, 1), "mnist-sample", Normalization(0.5, 0.5), recipe, recipe)
    monkeypatch.setitem(NETWORKS, shape, network)
    lines = run_job(model=shape)
    (published,) = [line for line in lines if line.startswith("published ")]
    assert published == f"published {tmp_path}/models/{shape}/1"
    assert [line for line in lines if line.startswith("report ")] == lines[lines.index(published) + 1 :]

    (run,) = (path for path in (tmp_path / "runs").iterdir() if path.is_dir())
    with np.load(run / "test.npz") as predictions:
        expected = predictions["probabilities"]
    with local_service(tmp_path / "models", "native") as service, Client(service.address) as client:
        answers = np.concatenate([client.predict(shape, images.numpy()) for images in few_digits.test.images.split(50)])
    np.testing.assert_allclose(answers, expected, atol=1e-5)
