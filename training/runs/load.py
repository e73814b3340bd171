"""The trained classifier of a run: its weights, normalization and temperature, and what its answers mean.

The checkpoint has all of it but the temperature, so no data set is needed.

Not here: the published graph (publishing/), how a picture becomes an image (service/pictures/).
"""

import json
import math
from pathlib import Path
from typing import Any

from torch import nn

from service.pictures.fit import Fit, UnknownFit
from training.errors import TrainingError, UnknownNetwork
from training.networks.classifier import Classifier, Normalization
from training.networks.pooling import Pooling
from training.networks.registry import NETWORKS
from training.runs.files import CALIBRATION, SETTINGS
from training.runs.pins import Pins
from training.runs.run_folder import RunFolder
from training.trainer.calibration import apply_temperature

# Until the checkpoint's weights, which include the normalization, are loaded.
NO_NORMALIZATION = Normalization(0.0, 1.0)


class TrainedClassifier(Classifier):
    """A Classifier with trained weights. `labels` name its classes, and `fit` makes its images of pictures.

    It is an ordinary module in evaluation mode: raw uint8 (N, H, W, C) in, probabilities float32 (N, classes) out.
    """

    def __init__(self, body: nn.Module, *, labels: tuple[str, ...], fit: Fit) -> None:
        super().__init__(body, NO_NORMALIZATION)
        self.labels, self.fit = labels, fit


def load(path: Path) -> TrainedClassifier:
    """The classifier of the run folder at `path`, on the CPU.

    Its weights are those that the run published or, of an unfinished run, those that it would publish if no step
    followed its last checkpoint.

    Raises:
        TrainingError: `path` is no run folder or has no checkpoint, a file is damaged, or this code lacks the network.
    """
    state = checkpoint(path)
    pins = Pins.of_checkpoint(state)
    if pins.network not in NETWORKS:
        raise UnknownNetwork(
            f"{path} trained the network {pins.network!r}, which is not registered; import what adds it to NETWORKS "
            "(training/networks/registry.py), then load the run again"
        )
    try:
        body = NETWORKS[pins.network].build(Pooling(**pins.pooling), len(pins.labels))
        fit = Fit.from_record(pins.fit)
        model = TrainedClassifier(body, labels=tuple(pins.labels), fit=fit)
        model.load_state_dict(state["weights"])
    except (KeyError, TypeError, RuntimeError, UnknownFit) as error:
        raise TrainingError(
            f"the checkpoint of {path} does not fit the network {pins.network} of this code "
            f"({type(error).__name__}: {error}); load it with the code that made it"
        ) from error
    if (temperature := _temperature(path)) != 1:
        apply_temperature(model, temperature, NETWORKS[pins.network].image_shape)
    return model.eval()


def checkpoint(path: Path) -> dict[str, Any]:
    """The checkpoint of the run folder at `path`.

    Raises:
        TrainingError: `path` is no run folder, or has no checkpoint.
    """
    if not (path / SETTINGS).is_file():
        within = sorted(entry.parent.name for entry in path.glob(f"*/{SETTINGS}"))
        hint = f"; it holds run folders: give one, such as {path / within[-1]}" if within else ""
        what = "has no settings.json" if path.is_dir() else "is no folder"
        raise TrainingError(f"{path} is no run folder: it {what}{hint}")
    state = RunFolder(path).checkpoints.load()
    if state is None:
        raise TrainingError(
            f"{path} has no checkpoint: a run saves the first one at the end of its first epoch, or when it is stopped"
        )
    return state


def _temperature(path: Path) -> float:
    """The temperature of calibration.json; 1 if the run has none."""
    file = path / CALIBRATION
    if not file.exists():
        return 1.0
    try:
        temperature = float(json.loads(file.read_text())["temperature"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TrainingError(f'{file} cannot be read ({error}); expected {{"temperature": NUMBER}}') from error
    if not (math.isfinite(temperature) and temperature > 0):
        raise TrainingError(f"{file}: the temperature expected a number above 0, got {temperature}")
    return temperature
