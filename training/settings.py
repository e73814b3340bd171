"""Every setting of the training job: a flag, an environment variable `TRAINING_…`, and a line in README.md's table."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

# Settings that may change when a run is resumed. The others decide the weights or the data that they are tested on.
RESUME_OVERRIDES = (
    "data_dir",
    "repository",
    "min_accuracy",
    "device",
    "quantize",
    "runs_dir",
    "resume",
    "tensorboard",
    "skip_if_published",
)


class Settings(BaseSettings):
    """Train a network, evaluate it on its test split, export it to ONNX and publish it into a model repository."""

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
    """Network to train; --list shows the choices."""
    dataset: Annotated[str, Field(pattern="^(auto|mnist|mnist-sample|fashion-mnist|cifar10|folder:.+)$")] = "auto"
    """Data set: mnist, mnist-sample, fashion-mnist, cifar10, or folder:PATH with one folder per class; auto is the network's own."""  # noqa: E501
    fit: Literal["auto", "drawing", "resize", "none"] = "auto"
    """How pictures become the network's images, for the service too: auto is drawing for MNIST, resize for other data; none takes exact sizes only."""  # noqa: E501
    data_dir: Path = Path("data")
    """Folder that data sets are read from and downloaded to."""
    repository: Path = Path("models")
    """Model repository to publish into."""
    name: Annotated[str, Field(pattern=r"^([A-Za-z0-9][A-Za-z0-9._-]*)?$", max_length=100)] = ""
    """Name to publish under; by default the network's name, followed by the data set's if that is not the network's own."""  # noqa: E501
    skip_if_published: bool = False
    """Exit at once if the repository already has a version of the model."""
    recipe: Literal["tuned", "reference"] = "tuned"
    """Hyperparameters: tuned are our own; reference are those of the networks' sources."""
    pooling: Literal["max", "avg", "lp", "mixed", "avg-topk", "global"] = "max"
    """Kind of pooling."""
    epochs: Annotated[int, Field(ge=0, le=10_000)] = 0
    """Passes over the training images; 0 takes the recipe's number for the network."""
    batch_size: Annotated[int, Field(ge=0, le=65_536)] = 0
    """Images per step, over all processes; 0 takes the recipe's number for the network and the data set."""
    seed: Annotated[int, Field(ge=0, lt=2**40)] = 0
    """Random seed; on the same machine the same seed gives the same weights."""
    min_accuracy: Annotated[float, Field(ge=0, le=1)] | None = None
    """Accuracy gate: the lowest test accuracy, from 0 to 1, that is published; by default the network's own or, on other data, the commonest class's share and two standard errors more."""  # noqa: E501
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device to train on; auto is CUDA if there is a GPU."""
    quantize: Literal["none", "int8"] = "none"
    """Also publish the model in 8-bit integers, as NAME-int8, if it is faster on this machine and at most 0.2 points less accurate."""  # noqa: E501
    runs_dir: Path = Path("runs")
    """Folder of all run folders: settings, metrics, checkpoint, report."""
    resume: Path | None = None
    """Run folder to resume, from its checkpoint and with its settings."""
    tensorboard: bool = False
    """Also write TensorBoard events; needs the package tensorboard."""
    list: bool = False
    """List the networks, with the accuracies that their sources report and those published here, and exit."""
    summary: bool = False
    """Print the network's layers, with output shapes and numbers of parameters, and exit."""
