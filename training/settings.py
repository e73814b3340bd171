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
    "publish",
    "device",
    "quantize",
    "runs_dir",
    "resume",
    "tensorboard",
    "mlflow",
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
    skip_unreadable: bool = False
    """Leave out picture files that cannot be used; otherwise they stop the job, which names them."""
    data_dir: Path = Path("data")
    """Folder that data sets are read from and downloaded to, and where images of pictures are cached."""
    repository: Path = Path("models")
    """Model repository to publish into."""
    name: Annotated[str, Field(pattern=r"^([A-Za-z0-9][A-Za-z0-9._-]*)?$", max_length=100)] = ""
    """Name to publish under; by default the network's name, followed by the data set's if that is not the network's own."""  # noqa: E501
    skip_if_published: bool = False
    """Exit at once if the repository already has a version of the model."""
    recipe: Literal["tuned", "distilled", "reference"] = "tuned"
    """Hyperparameters: tuned are our own; distilled trains longer, on the answers of --teacher; reference are those of the networks' sources."""  # noqa: E501
    teacher: tuple[Path, ...] = ()
    """Run folder of a trained network whose answers the recipe distilled teaches; give it several times for the mean of several."""  # noqa: E501
    init_from: Path | None = None
    """Run folder or published version whose weights training starts from; the last layer may have other classes."""
    pooling: Literal["max", "min", "avg", "lp", "mixed", "avg-topk", "stride", "global", "global-max", "all"] = "max"
    """Kind of pooling; stride is a convolution in its place. all trains the network with each kind, publishes nothing and compares them on one page."""  # noqa: E501
    pooling_window: Annotated[int, Field(ge=1)] = 2
    """Side of the pooling windows, in values of the feature map."""
    pooling_stride: Annotated[int, Field(ge=1)] = 2
    """Step between pooling windows; they overlap if it is smaller than their side."""
    epochs: Annotated[int, Field(ge=0, le=10_000)] = 0
    """Passes over the training images; 0 takes the recipe's number for the network."""
    batch_size: Annotated[int, Field(ge=0, le=65_536)] = 0
    """Images per step, over all processes; 0 takes the recipe's number for the network and the data set."""
    learning_rate: Annotated[float, Field(gt=0)] | None = None
    """Learning rate, the peak of a one-cycle schedule; by default the recipe's."""
    weight_decay: Annotated[float, Field(ge=0)] | None = None
    """Weight decay of matrices and filters; 0 is Adam instead of AdamW; by default the recipe's."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Label smoothing; by default the recipe's."""
    class_weights: bool = False
    """Weigh each image by the inverse of its class's frequency, for unbalanced data."""
    augmentation: str = "auto"
    """Random augmentation: off, digits, clothing, photos, shift or mirror; auto is the recipe's for the data set."""
    validation_share: Annotated[float, Field(ge=0, le=0.5)] | None = None
    """Share of the training images that is set aside for validation; by default the recipe's."""
    patience: Annotated[int, Field(ge=0)] = 0
    """End training after this number of epochs without a lower validation loss; 0 is never."""
    set: tuple[str, ...] = ()
    """Change any other field of the recipe: KEY=VALUE, such as ema_fraction=0.1 or augmentation.degrees=15; may be given several times."""  # noqa: E501
    threads: Annotated[int, Field(ge=0, le=4096)] = 0
    """Threads that compute; 0 takes the processors that this process may use. The bits of the weights depend on it."""
    seed: Annotated[int, Field(ge=0, lt=2**40)] = 0
    """Random seed; on the same machine the same seed gives the same weights."""
    seeds: Annotated[int, Field(ge=1, le=1000)] = 1
    """Number of seeds to train with, from --seed on; only the first one's model is published. Prints mean ± deviation of the accuracy."""  # noqa: E501
    min_accuracy: Annotated[float, Field(ge=0, le=1)] | None = None
    """Accuracy gate: the lowest test accuracy, from 0 to 1, that is published; by default the network's own or, on other data, the commonest class's share and two standard errors more."""  # noqa: E501
    publish: bool = True
    """Publish the model; --no-publish trains, evaluates and reports only; --resume RUN --publish does it later."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device to train on; auto is CUDA if there is a GPU."""
    quantize: Literal["none", "int8"] = "none"
    """Also publish the model in 8-bit integers, as NAME-int8, if it is 1.1 times as fast on this machine and at most 0.2 points less accurate on validation images."""  # noqa: E501
    runs_dir: Path = Path("runs")
    """Folder of all run folders: settings, metrics, checkpoint, report."""
    resume: Path | None = None
    """Run folder to resume, from its checkpoint and with its settings."""
    tensorboard: bool = False
    """Also write TensorBoard events; needs the package tensorboard."""
    evaluate: str = ""
    """Evaluate a published version on the test split of --dataset, and exit: its folder, or NAME or NAME/VERSION in the repository."""  # noqa: E501
    mlflow: str = ""
    """Also log to the MLflow tracking server at this URI, such as http://localhost:5000; needs the package mlflow-skinny."""  # noqa: E501
    list: bool = False
    """List the networks, with the accuracies that their sources report and those published here, and exit."""
    summary: bool = False
    """Print the network's layers, with output shapes and numbers of parameters, and exit."""
