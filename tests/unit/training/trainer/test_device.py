"""Errors of an allocator are recognized as out of memory; the hardware is named, and used as the recipe says."""

import platform
from pathlib import Path

import pytest
import torch

from training.trainer import device


def test_the_cpu_allocators_error_is_recognized_as_out_of_memory() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert device.is_out_of_memory(caught.value)


def test_the_processor_is_named_as_linux_names_it_or_by_its_architecture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "CPU_INFO", tmp_path / "cpuinfo")
    assert device.processor_name(torch.device("cpu")) == platform.machine(), "there is no such file"
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nmodel name\t: Fast CPU @ 3 GHz\n" * 2)
    assert device.processor_name(torch.device("cpu")) == "Fast CPU @ 3 GHz"
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda of: f"GPU of {of}")
    assert device.processor_name(torch.device("cuda")) == "GPU of cuda"


def test_a_step_computes_in_16_bits_only_if_the_hardware_and_the_recipe_do(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    for dtype, mixed_precision, expected in (
        (torch.bfloat16, True, torch.bfloat16),
        (torch.bfloat16, False, torch.float32),
        (None, True, torch.float32),
    ):
        monkeypatch.setattr(device, "mixed_precision_dtype", lambda _, dtype=dtype: dtype)
        assert device.computing_dtype(cpu, mixed_precision=mixed_precision) == expected
