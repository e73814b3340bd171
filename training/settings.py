"""Every setting of the training job: a flag, an environment variable `TRAINING_…`, and a line in the README's table."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """Train a network, export it to ONNX and publish it into a model repository."""

    model_config = SettingsConfigDict(
        env_prefix="TRAINING_",
        cli_parse_args=True,
        cli_prog_name="python -m training",
        cli_kebab_case=True,
        cli_hide_none_type=True,
        cli_show_env_vars=True,
        extra="forbid",
        use_attribute_docstrings=True,
    )

    model: Literal["mnist-simplecnn"] = "mnist-simplecnn"
    """Network to train."""
    dataset: Literal["mnist", "mnist-sample"] = "mnist"
    """Images to train on: the full set, below --data-dir, or the 6,000 of it that are bundled."""
    data_dir: Path = Path("data")
    """Folder in which data sets lie or are downloaded to."""
    repository: Path = Path("models")
    """Model repository to publish into."""
    epochs: Annotated[int, Field(ge=0, le=10_000)] = 0
    """Passes over the training images; 0: as many as suit the data set."""
    batch_size: Annotated[int, Field(ge=0, le=65_536)] = 0
    """Images a step; 0: as many as suit the data set."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Same seed on the same machine: same weights."""
    min_accuracy: Annotated[float, Field(ge=0, le=1)] = 0.9
    """Test accuracy, from 0 to 1, below which nothing is published."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train; auto takes CUDA where there is one."""
