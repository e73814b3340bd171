"""The weights that training starts from: those of a run's checkpoint, or of a published version's graph.

Not here: a run's whole classifier (load.py).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx
import torch
from google.protobuf.message import DecodeError
from onnx import numpy_helper
from torch import Tensor

from training.errors import InvalidSetting, TrainingError
from training.networks.classifier import Classifier, Normalization
from training.runs.files import SETTINGS
from training.runs.run_folder import RunFolder

GRAPH, MANIFEST = "model.onnx", "manifest.json"
# Decimals of a normalization's mean and deviation, as recipe.py rounds them.
DECIMALS = 4


@dataclass(frozen=True)
class InitialWeights:
    """The state dictionary of a Classifier, the names of its classes, and the folder that it comes from."""

    weights: Mapping[str, Tensor]
    labels: tuple[str, ...]
    source: Path


def read(path: Path) -> InitialWeights:
    """The weights in a run folder or a version's folder.

    Raises:
        TrainingError: there is no checkpoint and no graph with a manifest of ours, or a file is damaged.
    """
    if (path / SETTINGS).is_file():
        state = RunFolder(path).checkpoints.load()
        if state is None:
            raise TrainingError(f"--init-from {path}: the run has no checkpoint yet")
        return InitialWeights(state["weights"], tuple(state["pins"]["labels"]), path)
    if not (path / GRAPH).is_file():
        raise TrainingError(
            f"--init-from {path}: expected a run folder, such as runs/ID, or a version's folder, such as models/NAME/1"
        )
    try:
        graph = onnx.load(path / GRAPH).graph
        manifest = json.loads((path / MANIFEST).read_text())
        normalization, labels = Normalization(**manifest["network"]["normalization"]), tuple(manifest["labels"])
    except (OSError, ValueError, KeyError, TypeError, DecodeError) as error:
        raise TrainingError(
            f"--init-from {path}: not a version that this job published ({type(error).__name__}: {error})"
        ) from error
    tensors = {tensor.name: torch.tensor(numpy_helper.to_array(tensor)) for tensor in graph.initializer}
    weights = {name: tensor for name, tensor in tensors.items() if name.startswith("body.")}
    return InitialWeights(weights | dict(Classifier(torch.nn.Identity(), normalization).named_buffers()), labels, path)


def normalization_of(weights: Mapping[str, Tensor]) -> Normalization:
    """The normalization that the weights were trained with."""
    std = 1 / (255 * weights["scale"].item())
    return Normalization(round(-weights["shift"].item() * std, DECIMALS), round(std, DECIMALS))


def initialize(model: Classifier, initial: InitialWeights, labels: tuple[str, ...]) -> bool:
    """Give the model, whose classes have these labels, the weights; whether its last layer keeps its random ones.

    It does if the classes are others.

    Raises:
        InvalidSetting: another layer differs, so that the weights are not of this network; the message names it.
    """
    own, weights = model.state_dict(), initial.weights
    *_, last = (name for name, parameter in model.named_parameters() if parameter.ndim > 1)
    of_last_layer = {name for name in own if name.rpartition(".")[0] == last.rpartition(".")[0]}
    for name, tensor in own.items():
        if name not in weights and not name.endswith("num_batches_tracked"):
            raise InvalidSetting(
                f"--init-from {initial.source}: it has no {name}: it is of another network, or a published version "
                "whose graph does not keep the weights as they were trained (batch normalization, 8 bits); "
                "give its run folder"
            )
        if name not in of_last_layer and name in weights and weights[name].shape != tensor.shape:
            expected, found = (list(shape) for shape in (tensor.shape, weights[name].shape))
            raise InvalidSetting(
                f"--init-from {initial.source}: {name} has shape {found}, this network's has {expected}"
            )
    other_classes = initial.labels != labels
    taken = {name: weights[name] for name in own if name in weights and not (other_classes and name in of_last_layer)}
    model.load_state_dict(own | taken)
    return other_classes
