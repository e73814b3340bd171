"""What a user reads when training starts."""

from pathlib import Path

import pytest
import torch

from tests.support import reports
from training import pipeline
from training.runs.run_folder import RunFolder
from training.trainer.distributed import SINGLE_PROCESS


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
