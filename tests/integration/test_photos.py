"""Digits as people photograph them reach the network as it was taught to see them: Classify reads them right."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from service.client import Client
from tests.support.local_service import local_service
from tests.support.photos import CLEAN, KINDS, TURNED, Kind, photo, ruled, soft_shadow, specks

MODEL = "mnist-simplecnn"
# Of each kind, and of each joined kind.
PHOTOS, JOINED_PHOTOS = 20, 8
# Conditions that meet: each is harder than the ones that it joins.
JOINED = {
    "pencil on ruled paper": replace(KINDS["pencil"], marks=ruled),
    "pencil with specks": replace(KINDS["pencil"], marks=specks),
    "small, on ruled paper": replace(KINDS["small"], marks=ruled),
    "small, with specks": replace(KINDS["small"], marks=specks),
    "small, indoors": replace(KINDS["indoors"], side=150),
    "grey paper in a shadow": replace(KINDS["grey paper 160"], light=soft_shadow),
    "blackboard in a shadow": replace(KINDS["blackboard"], light=soft_shadow),
    "yellow pen": Kind(ink=(230.0, 210.0, 60.0)),
}
Digits = tuple[NDArray[np.uint8], NDArray[np.uint8]]


@pytest.fixture(scope="module")
def digits(published: Path, test_images: Digits) -> Digits:
    """Held-out images (N, 28, 28) and their labels that the network reads right: what is tested is the fit."""
    images, labels = test_images
    with local_service(published, "native") as service, Client(service.address) as client:
        right = client.predict(MODEL, images[:64]).argmax(1) == labels[:64]
    return images[:64][right, :, :, 0], labels[:64][right]


@pytest.fixture(scope="module")
def accuracies(published: Path, digits: Digits) -> dict[str, float]:
    """The share of the photographs of each kind that Classify reads right."""
    images, labels = digits
    shares = {}
    with local_service(published, "native") as service, Client(service.address, timeout=60) as client:
        for name, kind in (KINDS | JOINED).items():
            count = JOINED_PHOTOS if name in JOINED else PHOTOS
            photos = [photo(image, kind, seed) for seed, image in enumerate(images[:count])]
            results = client.classify(MODEL, photos)
            right = [
                not result.HasField("error") and result.classes[0].class_id == label
                for result, label in zip(results, labels, strict=False)
            ]
            shares[name] = sum(right) / count
    return shares


@pytest.mark.slow
def test_at_least_95_percent_of_each_kind_are_read_right(accuracies: dict[str, float]) -> None:
    assert {name: share for name, share in accuracies.items() if share < 0.95 and name != TURNED} == {}
    assert accuracies[TURNED] >= 0.8


@pytest.mark.slow
def test_at_least_99_percent_of_clean_photographs_are_read_right(accuracies: dict[str, float]) -> None:
    shares = {name: accuracies[name] for name in CLEAN}
    assert sum(shares.values()) / len(shares) >= 0.99, shares


@pytest.mark.parametrize("name", ["white paper", "ruled paper", "squared paper", "specks", "indoors", "blackboard"])
def test_a_page_without_ink_says_so(published: Path, name: str) -> None:
    empty = photo(np.zeros((28, 28), np.uint8), KINDS[name], seed=0)
    with local_service(published, "native") as service, Client(service.address) as client:
        (result,) = client.classify(MODEL, [empty])
    assert result.error.message.startswith("no drawing found") and not result.classes
