"""Every setting of the training job: a flag, an environment variable `TRAINING_…`, and a line in the README's table."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

# Settings that may be given anew when a run is continued; the others decide the weights, or what was tested.
CHANGEABLE = (
    "data_dir",
    "repository",
    "min_accuracy",
    "device",
    "quantize",
    "runs",
    "resume",
    "tensorboard",
    "unless_published",
)


class Settings(BaseSettings):
    """Train a network, judge it on its test set, export it to ONNX and publish it into a model repository."""

    model_config = SettingsConfigDict(
        env_prefix="TRAINING_",
        cli_parse_args=True,
        cli_prog_name="python -m training",
        cli_kebab_case=True,
        cli_hide_none_type=True,
        cli_show_env_vars=True,
        cli_implicit_flags=True,
        extra="forbid",
        use_attribute_docstrings=True,
    )

    model: str = "mnist-simplecnn"
    """Network to train; --list shows them."""
    dataset: Annotated[str, Field(pattern="^(auto|mnist|mnist-sample|fashion-mnist|cifar10|folder:.+)$")] = "auto"
    """Images to learn from: mnist, mnist-sample, fashion-mnist, cifar10, or folder:PATH with a folder a class; auto is what the network is meant for."""  # noqa: E501
    data_dir: Path = Path("data")
    """Folder in which data sets lie or are downloaded to."""
    repository: Path = Path("models")
    """Model repository to publish into."""
    name: Annotated[str, Field(pattern=r"^([A-Za-z0-9][A-Za-z0-9._-]*)?$", max_length=100)] = ""
    """Name to publish under; if none is given the network's, followed by the data set's where it is not its own."""
    unless_published: bool = False
    """Do nothing if the repository has a version of it already."""
    recipe: Literal["best", "paper"] = "best"
    """How to train: best is ours, paper is as the figures were reported."""
    pool: Literal["max", "avg", "lp", "mixed", "avg-topk", "global"] = "max"
    """Kind of pooling."""
    epochs: Annotated[int, Field(ge=0, le=10_000)] = 0
    """Passes over the training images; 0: as many as suit the network."""
    batch_size: Annotated[int, Field(ge=0, le=65_536)] = 0
    """Images a step, of all processes together; 0: as many as suit the network."""
    seed: Annotated[int, Field(ge=0, lt=2**40)] = 0
    """Same seed on the same machine: same weights."""
    min_accuracy: Annotated[float, Field(ge=0, le=1)] | None = None
    """Test accuracy, from 0 to 1, below which nothing is published; if none is given what suits the network, or a guess of the commonest class."""  # noqa: E501
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train; auto takes CUDA where there is one."""
    quantize: Literal["none", "int8"] = "none"
    """Publish the model in 8-bit integers too, as NAME-int8, if it is faster here and not 0.2 points worse."""
    runs: Path = Path("runs")
    """Folder for what a run leaves: settings, metrics, checkpoint, report."""
    resume: Path | None = None
    """Folder of a run to go on with, from its checkpoint and with its settings."""
    tensorboard: bool = False
    """Write TensorBoard events too; needs the package tensorboard."""
    list: bool = False
    """List the networks, with what was reported of them and what was reached here, and exit."""
    summary: bool = False
    """Print the network's layers, with the sizes of what they put out, and exit."""
