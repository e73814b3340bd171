"""The pipeline says what it trains on, calibrates what the recipe asks for, and leaves the temperature in the run."""

import copy
import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.support import reports
from tests.support.training import NETWORK, short_recipe, splits, train
from training import pipeline
from training.runs.run_folder import RunFolder
from training.trainer import calibration
from training.trainer.distributed import SINGLE_PROCESS


def experiment(**changes: Any) -> Any:
    """What calibration needs of an experiment: 100 validation images and a recipe."""
    return SimpleNamespace(recipe=short_recipe(**changes), validation=splits()[1])


def test_the_saved_temperature_makes_the_calibrated_network_of_the_checkpoints_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibration, "MIN_VALIDATION_IMAGES", 100)
    model, _ = train(short_recipe(learning_rate=1e-3))
    of_checkpoint, again = copy.deepcopy(model), copy.deepcopy(model)
    found = pipeline._calibrate(experiment(), model, RunFolder(tmp_path))
    assert found is not None and abs(found.temperature - 1) > 0.05
    saved = json.loads((tmp_path / "calibration.json").read_text())
    assert saved == dataclasses.asdict(found)
    calibration.apply_temperature(of_checkpoint, saved["temperature"], NETWORK.image_shape)
    pipeline._calibrate(experiment(), again, RunFolder(tmp_path))  # as after --resume
    for other in (of_checkpoint, again):
        for name, tensor in model.state_dict().items():
            assert torch.equal(other.state_dict()[name], tensor), name


def test_a_recipe_without_calibration_leaves_the_network_and_the_folder_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibration, "MIN_VALIDATION_IMAGES", 100)
    model = NETWORK.classifier().eval()
    before = copy.deepcopy(model.state_dict())
    assert pipeline._calibrate(experiment(calibrate=False), model, RunFolder(tmp_path)) is None
    assert not list(tmp_path.iterdir()) and all(
        torch.equal(before[name], tensor) for name, tensor in model.state_dict().items()
    )


@pytest.mark.parametrize(
    ("device", "shown"),
    [("cuda", "device: cuda (NVIDIA H200), float32"), ("cpu", "device: cpu (a processor), float32")],
)
def test_the_name_of_the_hardware_is_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, device: str, shown: str
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA H200")
    cpu_info = tmp_path / "cpuinfo"
    cpu_info.write_text("processor\t: 0\nmodel name\t: a processor\n")
    monkeypatch.setattr("training.trainer.device.CPU_INFO", cpu_info)
    experiment = reports.report_input(monkeypatch, reports.mlp, recipe="reference").experiment
    pipeline._print_start(experiment, RunFolder(tmp_path), SINGLE_PROCESS, torch.device(device))
    assert shown in capsys.readouterr().out
