"""Loading the only model of a repository, and the message of a refusal."""

from pathlib import Path

import pytest

from service.core.load_errors import LoadError
from service.models.engine_settings import EngineOptions
from service.models.loader import LoadedModel, load
from service.models.repository.scan import scan

CPU = EngineOptions(["cpu"], 1)


def load_only(repository: Path, version: int = 1) -> LoadedModel:
    """Load a version of the only model in a repository."""
    (folder,) = scan(repository).models
    model = load(folder, version, CPU)
    model.batcher.close()
    return model


def refusal(repository: Path) -> str:
    """The message with which version 1 of the only model in a repository is refused."""
    with pytest.raises(LoadError) as caught:
        load_only(repository)
    return str(caught.value)
