"""The images and the model repository that all tests of containers share."""

from pathlib import Path

import pytest

from tests.support.containers import built_images, readable_copy


@pytest.fixture(scope="session")
def images() -> dict[str, str]:
    """Compose variables that name the images, with those of service and edge built from this checkout."""
    return built_images()


@pytest.fixture(scope="module")
def repository(published: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model repository with version 1 of mnist-simplecnn, for one module."""
    return readable_copy(published, tmp_path_factory.mktemp("repository") / "models")
