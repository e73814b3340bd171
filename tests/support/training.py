"""Short training runs on bundled digits, a checkpoint store in memory, random images and a toy artifact."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper

from service.pictures.fit import Fit
from tests.support.models import toy_model
from training.data import datasets
from training.data.augment import DIGIT_AUGMENTATION
from training.data.dataset import Split, split_validation
from training.experiment import Experiment, prepare
from training.networks import registry
from training.networks.classifier import Classifier
from training.publishing import publish
from training.runs.pins import Pins
from training.settings import Settings
from training.trainer import loop
from training.trainer.distributed import SINGLE_PROCESS
from training.trainer.loop import TrainingResult
from training.trainer.progress import ProgressListener
from training.trainer.recipe import Recipe

CPU = torch.device("cpu")
NETWORK = registry.NETWORKS["mnist-simplecnn"]
SAMPLE = datasets.load("mnist-sample", Path("unused"))


def prepared(**settings: Any) -> Experiment:
    """The experiment of these settings, on mnist-sample."""
    # Settings() would read the command line of the tests.
    given = Settings.model_construct(**{"dataset": "mnist-sample", "device": "cpu"} | settings)
    return prepare(given, SINGLE_PROCESS)


def splits(count: int = 600) -> tuple[Split, Split]:
    """500 digits to train on and 100 to validate on."""
    return split_validation(SAMPLE.train[torch.arange(count)], size=100, seed=0)


def short_recipe(**changes: Any) -> Recipe:
    """One epoch of 5 steps."""
    base = Recipe("tuned", epochs=1, batch_size=100, seed=0, augmentation=DIGIT_AUGMENTATION)
    return dataclasses.replace(base, **changes)


def train(a_recipe: Recipe, *listeners: ProgressListener, **options: Any) -> tuple[Classifier, TrainingResult]:
    """A network trained with this recipe, and the result."""
    torch.manual_seed(a_recipe.seed)
    model = NETWORK.classifier()
    return model, loop.train(model, *splits(), a_recipe, device=CPU, listeners=listeners, **options)


class MemoryStore:
    """A checkpoint store in memory; it copies what it is given, as a file would."""

    def __init__(self) -> None:
        self.state: dict[str, Any] | None = None
        self.steps: list[int] = []

    def load(self) -> dict[str, Any] | None:
        return self.state

    def save(self, state: dict[str, Any]) -> None:
        self.state = _copy(state)
        self.steps.append(state["step"])


def _copy(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.clone()
    if isinstance(value, dict):
        return {key: _copy(item) for key, item in value.items()}
    return value


def pins(**changes: Any) -> Pins:
    """The pins of a run on two classes, with some of them changed."""
    base = Pins(
        network=NETWORK.name, pooling={"kind": "max"}, labels=["cat", "dog"], fit=Fit("drawing").record(),
        images={"training": [5, 5], "validation": [1, 1], "test": [2, 2]}, data="d" * 64, split="s" * 64, code="c" * 12,
        pytorch="2.14.1", device="cpu, AVX2", precision="float32", processes=1, threads=torch.get_num_threads(),
    )  # fmt: skip
    return dataclasses.replace(base, **changes)


def random_images(network: registry.Network, count: int) -> torch.Tensor:
    """The same random images at every call, in the shape that a network takes."""
    random = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, *network.image_shape), dtype=torch.uint8, generator=random)


def toy_graph(image_shape: tuple[int, int, int] = (4, 4, 1), classes: int = 3, note: str = "") -> bytes:
    """A graph that answers every image alike, all classes with equal probability; `note` makes another file of it."""
    share = helper.make_tensor("share", TensorProto.FLOAT, [1, classes], [1 / classes] * classes)
    graph = onnx.load_from_string(
        toy_model(
            [
                helper.make_node("Flatten", ["images"], ["flat"]),
                helper.make_node("Cast", ["flat"], ["pixels"], to=TensorProto.FLOAT),
                helper.make_node("ReduceMean", ["pixels", "last"], ["mean"], keepdims=1),
                helper.make_node("Mul", ["mean", "zero"], ["nothing"]),
                helper.make_node("Add", ["nothing", "share"], ["probabilities"]),
            ],
            inputs=[("images", TensorProto.UINT8, ["N", *image_shape])],
            outputs=[("probabilities", TensorProto.FLOAT, ["N", classes])],
            constants=[
                helper.make_tensor("last", TensorProto.INT64, [1], [1]),
                helper.make_tensor("zero", TensorProto.FLOAT, [], [0.0]),
                share,
            ],
        )
    )
    graph.doc_string = note
    return graph.SerializeToString()


def artifact(
    note: str = "",
    *,
    label_names: tuple[str, ...] = ("a", "b", "c"),
    image_shape: tuple[int, int, int] = (4, 4, 1),
    name: str = "toy",
) -> publish.Artifact:
    """What a training job publishes, with a toy graph of which `note` makes another."""
    classes = len(label_names)
    return publish.Artifact(
        name=name,
        model=toy_graph(image_shape, classes, note),
        manifest={"golden": {"samples": 2, "tolerance": 1e-4}},
        golden={
            "images": np.zeros((2, *image_shape), np.uint8),
            "probabilities": np.full((2, classes), 1 / classes, np.float32),
        },
        label_names=label_names,
        image_shape=image_shape,
        card=lambda manifest: f"{manifest['model']}, version {manifest['version']}",
    )
