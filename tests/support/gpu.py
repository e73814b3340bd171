"""Fakes of a GPU: a binding in host memory, and NVIDIA's management library (NVML)."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pynvml
from numpy.typing import NDArray

from service.core.spec import Arrays

# ruff: noqa: N802


class FakeBinding:
    """Doubles its only input, FP32 [rows, 3]. It counts its runs and raises `error` if that is set."""

    def __init__(self, rows: int) -> None:
        self.inputs: Arrays = (np.zeros((rows, 3), np.float32),)
        self.runs = 0
        self.error: Exception | None = None

    def run(self) -> Sequence[NDArray[np.generic]]:
        self.runs += 1
        if self.error:
            raise self.error
        return [np.multiply(self.inputs[0], 2)]


@dataclass
class FakeNvml:
    """NVML with two GPUs, found by number and by UUID; `broken` makes its calls fail."""

    devices: dict[str, int] = field(default_factory=lambda: {"0": 0, "1": 1, "GPU-zero": 0, "GPU-one": 1})
    broken: bool = False

    def nvmlInit(self) -> None:
        if self.broken:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_DRIVER_NOT_LOADED)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return self.devices[str(index)]

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> int:
        return self.devices[uuid]

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> Any:
        if self.broken:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST)
        return SimpleNamespace(used=(handle + 1) * 2**30, total=80 * 2**30)

    def nvmlDeviceGetUtilizationRates(self, handle: int) -> Any:
        return SimpleNamespace(gpu=25 * (handle + 1))
