"""The pictures of a comparison show what each kind's layers make of the same feature map."""

import numpy as np
import pytest
import torch
from torch import nn

from tests.support.training import NETWORK, random_images
from training.networks.classifier import Classifier, Normalization
from training.networks.pooling import KINDS, Pooling
from training.report.pooling_pictures import (
    input_maps,
    map_pictures,
    picture,
    pooled_pictures,
    pooling_layers,
    strongest_channel,
)

IMAGE = random_images(NETWORK, 1)[0]


def test_the_pooling_layers_are_those_that_make_maps_smaller_and_the_inputs_what_they_get() -> None:
    model = NETWORK.classifier()
    (first, first_input), (last, last_input) = pooling_layers(model, IMAGE)
    assert first is model.body[2] and last is model.body[5]  # type: ignore[index]
    assert first_input.shape == (1, 32, 28, 28) and last_input.shape == (1, 64, 14, 14)
    assert [maps.shape for maps in input_maps(model, IMAGE)] == [(1, 32, 28, 28), (1, 64, 14, 14)]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_drawn_from_the_inputs_of_another_network(kind: str) -> None:
    maps = input_maps(NETWORK.classifier(), IMAGE)
    first, last = pooled_pictures(NETWORK.classifier(Pooling(kind)), IMAGE, maps)
    assert first["url"].startswith("data:image/png;base64,") and first["caption"].startswith("14×14, ")
    assert last["caption"].startswith(("7×7, ", "1×1, "))
    assert len(map_pictures(maps)) == 2


def test_a_network_without_pooling_has_no_pictures() -> None:
    body = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(4 * 26 * 26, 10))
    model = Classifier(body, Normalization(0, 1))
    assert pooling_layers(model, IMAGE) == [] and pooled_pictures(model, IMAGE, []) == []


def test_a_picture_says_its_size_range_and_mean_and_the_strongest_channel_is_the_one_that_varies_most() -> None:
    assert picture(np.array([[0, 1], [2, 5]], np.float32)).caption == "2×2, 0.00 to 5.00, mean 2.00"
    assert picture(np.array([[3]], np.float32)).caption == "1×1, 3.00, mean 3.00"
    maps = torch.zeros(1, 3, 4, 4)
    maps[0, 1, 0, 0] = 1
    assert strongest_channel(maps.numpy()) == 1
