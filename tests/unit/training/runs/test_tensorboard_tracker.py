"""TensorBoard gets figures, hyperparameters, images and results."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.trackers import progress, results
from tests.support.training import prepared
from training.errors import TrainingError
from training.experiment import Experiment
from training.runs.tensorboard_tracker import MAX_IMAGES, TensorBoardTracker, first_filters
from training.runs.tracking import hyperparameters


@pytest.fixture(scope="module")
def experiment() -> Experiment:
    """An experiment on mnist-sample."""
    return prepared(epochs=3)


def test_hyperparameters_are_flat_and_plain(experiment: Experiment) -> None:
    found = hyperparameters(experiment)
    assert found["network"] == "mnist-simplecnn" and found["dataset"] == "mnist-sample" and found["pooling"] == "max"
    assert found["epochs"] == 3 and found["learning_rate"] == 4e-3 and found["augmentation.shift"] == 2
    assert all(isinstance(value, str | int | float) for value in found.values())


def events(folder: Path) -> list[Any]:
    """The values of all events in a folder, each with its step."""
    loader = pytest.importorskip("tensorboard.backend.event_processing.event_file_loader")
    (path,) = folder.glob("events*")
    return [(event.step, value) for event in loader.EventFileLoader(str(path)).Load() for value in event.summary.value]


def test_tensorboard_gets_scalars_images_and_hyperparameters(experiment: Experiment, tmp_path: Path) -> None:
    with TensorBoardTracker(experiment, tmp_path) as tracker:
        tracker(progress(1, epoch_ended=False))
        tracker(progress(2))
        tracker.log_results(results(experiment))
    found = events(tmp_path)
    scalars = {(step, value.tag): value.tensor.float_val[0] for step, value in found if value.tensor.float_val}
    assert scalars == pytest.approx(
        {
            (5, "loss"): 0.5, (5, "accuracy"): 0.8, (5, "learning_rate"): 0.1,
            (10, "loss"): 0.25, (10, "accuracy"): 0.8, (10, "learning_rate"): 0.1, (10, "validation_accuracy"): 0.9,
            (10, "test_accuracy"): 0.1, (10, "calibration_error"): 0.0123, (10, "training_seconds"): 20.0,
        }
        | {(10, "kept_validation_accuracy"): 0.98, (5, "images_per_second"): 9.0, (10, "images_per_second"): 9.0}
    )  # fmt: skip
    images = {
        value.tag: value.tensor.string_val for _, value in found if value.metadata.plugin_data.plugin_name == "images"
    }
    assert set(images) == {
        "training images, augmented", "filters of the first convolution", "test images, the most confident errors",
    }  # fmt: skip
    assert all(strings[2].startswith(b"\x89PNG") for strings in images.values())
    hparams = b"".join(value.metadata.plugin_data.content for _, value in found if "hparams" in value.tag)
    assert b"learning_rate" in hparams and b"augmentation.shift" in hparams and b"test_accuracy" in hparams


def test_a_resumed_run_drops_the_events_that_it_repeats_and_draws_no_image_twice(
    experiment: Experiment, tmp_path: Path
) -> None:
    loader = pytest.importorskip("tensorboard.backend.event_processing.event_file_loader")
    (tmp_path / "metrics.jsonl").write_text('{"step": 7}\n')
    with TensorBoardTracker(experiment, tmp_path):
        pass
    (path,) = tmp_path.glob("events*")
    found = list(loader.EventFileLoader(str(path)).Load())
    assert [event.step for event in found if event.HasField("session_log")] == [8]
    assert not any(event.summary.value for event in found)


def test_filters_are_grey_or_in_colour_and_a_network_without_convolutions_has_none() -> None:
    grey, colour = first_filters(torch.nn.Conv2d(1, 4, 3)), first_filters(torch.nn.Conv2d(3, 6, 5))
    assert grey is not None and grey.shape == (4, 3, 3, 1) and grey.amin((1, 2, 3)).tolist() == [0] * 4
    assert colour is not None and colour.shape == (6, 5, 5, 3) and colour.amax((1, 2, 3)).tolist() == [255] * 6
    assert first_filters(torch.nn.Linear(2, 2)) is None and MAX_IMAGES == 32


def test_tensorboard_without_its_package_is_a_training_error(
    experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(TrainingError, match="pip install tensorboard"), TensorBoardTracker(experiment, tmp_path):
        pass
