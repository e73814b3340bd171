"""One ONNX Runtime session on one device.

Owns: choosing the device, the session's options, running a batch. Does not own: what a batch is (batcher.py), whether
the answers are right (loader.py).
"""

import ctypes
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from service.model import Arrays

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
# What NumPy does not have; its number is TensorProto.BFLOAT16 in https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
BFLOAT16, BFLOAT16_NUMBER = "tensor(bfloat16)", 16


class DeviceUnavailable(Exception):
    """The device that was asked for cannot be had; the message says what is missing."""


@dataclass(frozen=True)
class GraphTensor:
    """An input or output as the graph declares it: ONNX Runtime's type name, and None for each free axis."""

    name: str
    type: str
    shape: tuple[int | None, ...]


class Engine:
    """A loaded graph. `device` is `cpu` or `cuda:N`; `folder` holds the weights that lie outside the graph's file.

    Raises:
        DeviceUnavailable: ONNX Runtime did not take the CUDA device; by itself it falls back to the CPU in silence.
    """

    def __init__(self, model: bytes, *, device: str, threads: int, folder: Path | None = None) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4  # its errors come as exceptions, which we log with the model's name
        # Threads that spin take the core from those that read requests.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if folder is not None:
            options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
        providers: list[object] = [CPU]
        if device != "cpu":
            onnxruntime.preload_dlls()
            cuda = {
                "device_id": device.removeprefix("cuda:"),
                "cudnn_conv_algo_search": "HEURISTIC",  # EXHAUSTIVE searches for seconds at every new batch size
                "arena_extend_strategy": "kSameAsRequested",
            }
            providers.insert(0, (CUDA, cuda))
        self._session = onnxruntime.InferenceSession(model, options, providers=providers)
        self.provider: str = self._session.get_providers()[0]
        self.device = device
        if device != "cpu" and self.provider != CUDA:
            raise DeviceUnavailable(f"{device} was asked for, but ONNX Runtime took {self.provider}")
        self.inputs = _tensors(self._session.get_inputs())
        self.outputs = _tensors(self._session.get_outputs())
        self._input_names = [tensor.name for tensor in self.inputs]
        self._output_names = [tensor.name for tensor in self.outputs]
        if any(tensor.type == BFLOAT16 for tensor in (*self.inputs, *self.outputs)):
            self._session_run = self._run_bfloat16
        else:
            self._session_run = self._session.run

    def select(self, outputs: Sequence[str]) -> None:
        """From now on, compute these outputs only, in this order."""
        self._output_names = list(outputs)

    def run(self, inputs: Arrays) -> Sequence[NDArray[np.generic]]:
        """The outputs for the inputs, both in the graph's order unless others were selected. Releases the GIL.

        Raises:
            Exception: whatever ONNX Runtime raises for inputs that the graph cannot take.
        """
        outputs: Sequence[NDArray[np.generic]] = self._session_run(
            self._output_names, dict(zip(self._input_names, inputs, strict=True))
        )
        return outputs

    def _run_bfloat16(self, names: list[str], inputs: dict[str, NDArray[np.generic]]) -> list[NDArray[np.generic]]:
        """As the session's run, for graphs with tensors of 16-bit brain floats, which are passed as uint16."""
        make = onnxruntime.OrtValue
        values = {
            tensor.name: make.ortvalue_from_numpy_with_onnx_type(np.ascontiguousarray(array), BFLOAT16_NUMBER)
            if tensor.type == BFLOAT16
            else make.ortvalue_from_numpy(np.ascontiguousarray(array))
            for tensor, array in zip(self.inputs, inputs.values(), strict=True)
        }
        return [_array(value) for value in self._session.run_with_ort_values(names, values)]


def choose_devices(wanted: str) -> list[str]:
    """The devices to put engines on: `auto` is every CUDA device, or the CPU where there is none.

    Raises:
        DeviceUnavailable: CUDA was asked for by name and is not to be had.
    """
    if wanted == "cpu":
        return ["cpu"]
    count = _cuda_devices() if CUDA in onnxruntime.get_available_providers() else 0
    if wanted == "auto":
        return [f"cuda:{index}" for index in range(count)] or ["cpu"]
    if CUDA not in onnxruntime.get_available_providers():
        raise DeviceUnavailable(f"--device {wanted}: this ONNX Runtime has no CUDA; install onnxruntime-gpu")
    devices = [device if ":" in device else f"{device}:0" for device in wanted.split(",")]
    missing = [device for device in devices if int(device.removeprefix("cuda:")) >= count]
    if missing:
        raise DeviceUnavailable(
            f"--device {wanted}: {', '.join(missing)} not found, the driver shows {count} CUDA devices; "
            "use --device cpu or auto to run without"
        )
    return devices


def _cuda_devices() -> int:
    """How many devices NVIDIA's driver shows; 0 without a driver."""
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
        return 0
    return count.value


def _array(value: onnxruntime.OrtValue) -> NDArray[np.generic]:
    """A copy of the value's elements; 16-bit brain floats as uint16."""
    if value.data_type() != BFLOAT16:
        array: NDArray[np.generic] = value.numpy()
        return array
    shape = tuple(value.shape())
    if 0 in shape:
        return np.empty(shape, np.uint16)
    bits = ctypes.cast(value.data_ptr(), ctypes.POINTER(ctypes.c_uint16))
    return np.ctypeslib.as_array(bits, shape).copy()


def _tensors(nodes: Sequence[onnxruntime.NodeArg]) -> tuple[GraphTensor, ...]:
    return tuple(
        GraphTensor(node.name, node.type, tuple(axis if isinstance(axis, int) else None for axis in node.shape))
        for node in nodes
    )
