"""Everything specific to NVIDIA GPUs: device count, execution providers, IO binding, page-locked memory, sticky errors.

Not here: sessions (session.py), batch sizes (io_binding.py).
Options: https://onnxruntime.ai/docs/execution-providers/CUDA-ExecutionProvider.html and TensorRT-ExecutionProvider.html
"""

import contextlib
import ctypes
import re
import sys
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import structlog
from numpy.typing import NDArray

from service.core.errors import EngineLost
from service.core.spec import Arrays, TensorSpec

log = structlog.get_logger(__name__)

CUDA, TENSORRT = "CUDAExecutionProvider", "TensorrtExecutionProvider"
# Runs after which a CUDA graph is captured: ONNX Runtime allocates in the first run and captures in the second.
RUNS_TO_CAPTURE = 3
# cudaHostRegisterPortable: the memory is page-locked for every device's context.
CUDA_HOST_REGISTER_PORTABLE = 1
CUDART_LIBRARIES = ("libcudart.so.13", "libcudart.so.12")
# ONNX Runtime's messages for errors after which a process cannot use its device any more: CUDA's sticky errors (illegal
# address, launch failure, assert, ECC, …) by number, and fatal errors of cuBLAS and cuDNN.
# https://docs.nvidia.com/cuda/cuda-runtime-api/group__CUDART__TYPES.html
STICKY_ERROR = re.compile(
    r"CUDA (failure|error)[: ]+(46|214|220|700|702|709|71[0-9]|719|999)\b"
    r"|CUBLAS_STATUS_(EXECUTION_FAILED|INTERNAL_ERROR)|CUDNN_STATUS_(EXECUTION_FAILED|INTERNAL_ERROR)"
    r"|device-side assert|illegal memory access|unspecified launch failure|uncorrectable ECC|GPU is lost",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class GpuOptions:
    """How engines use a GPU."""

    memory_bytes: int = 0  # limit of one engine's memory arena; 0 for no limit
    graphs: bool = False  # capture a CUDA graph for each batch size, and replay it
    tensorrt_cache: Path | None = None  # use TensorRT, and cache its engines in this folder
    fp16: bool = False  # let TensorRT compute in half precision


DEFAULT_GPU_OPTIONS = GpuOptions()


def device_count() -> int:
    """The number of devices that NVIDIA's driver shows; 0 without a driver."""
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
        return 0
    return count.value


def providers(device: str, options: GpuOptions) -> list[tuple[str, dict[str, str]]]:
    """ONNX Runtime's execution providers for `cuda:N` with their options, in order of preference."""
    number = device.removeprefix("cuda:")
    cuda = {
        "device_id": number,
        "cudnn_conv_algo_search": "HEURISTIC",  # EXHAUSTIVE takes seconds for each new batch size
        "arena_extend_strategy": "kSameAsRequested",  # doubling would take memory from other engines
        "enable_cuda_graph": str(int(options.graphs)),
    }
    if options.memory_bytes:
        cuda["gpu_mem_limit"] = str(options.memory_bytes)
    chosen = [(CUDA, cuda)]
    if options.tensorrt_cache:
        cache = str(options.tensorrt_cache)
        tensorrt = {
            "device_id": number,
            "trt_engine_cache_enable": "1",
            "trt_engine_cache_path": cache,
            "trt_timing_cache_enable": "1",
            "trt_timing_cache_path": cache,
            "trt_fp16_enable": str(int(options.fp16)),
            "trt_cuda_graph_enable": str(int(options.graphs)),
        }
        if options.memory_bytes:
            tensorrt["trt_max_workspace_size"] = str(options.memory_bytes)
        chosen.insert(0, (TENSORRT, tensorrt))
    return chosen


def is_sticky(error: Exception) -> bool:
    """Whether the error is sticky: the process cannot use the device any more."""
    return STICKY_ERROR.search(str(error)) is not None


class CudaBinding:
    """An io_binding.Binding of `rows` rows for a session. The shape of a tensor is (rows, *spec.shape).

    With `graph` the session captures a CUDA graph for this size in its first runs and replays it in later runs.
    """

    def __init__(
        self,
        session: onnxruntime.InferenceSession,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        rows: int,
        *,
        device: str,
        graph: bool,
    ) -> None:
        kind, number = device.split(":")
        make = onnxruntime.OrtValue.ortvalue_from_shape_and_type
        self.inputs: Arrays = tuple(np.zeros((rows, *tensor.shape), tensor.data_type.dtype) for tensor in inputs)
        if kind == "cuda":
            for array in self.inputs:
                pin(array)
        self._session = session
        self._sources = [make(array.shape, array.dtype, kind, int(number)) for array in self.inputs]
        self._targets = [make((rows, *spec.shape), spec.data_type.dtype, kind, int(number)) for spec in outputs]
        self._binding = session.io_binding()
        for tensor, value in zip(inputs, self._sources, strict=True):
            self._binding.bind_ortvalue_input(tensor.name, value)
        for tensor, value in zip(outputs, self._targets, strict=True):
            self._binding.bind_ortvalue_output(tensor.name, value)
        self._options = onnxruntime.RunOptions()
        if graph:
            self._options.add_run_config_entry("gpu_graph_id", str(rows))
            for _ in range(RUNS_TO_CAPTURE):
                self.run()

    def run(self) -> Sequence[NDArray[np.generic]]:
        """As Binding.run().

        Raises:
            EngineLost: the process cannot use the device any more.
        """
        try:
            for value, array in zip(self._sources, self.inputs, strict=True):
                value.update_inplace(array)
            self._session.run_with_iobinding(self._binding, self._options)
            return [value.numpy().copy() for value in self._targets]  # on a CPU, as in tests, numpy() is a view
        except Exception as error:
            if is_sticky(error):
                raise EngineLost(str(error)) from error
            raise


def pin(array: NDArray[np.generic]) -> bool:
    """Page-lock the array's memory for the array's lifetime, so that copies to a device are direct.

    Returns whether that succeeded; without it, copies are slower.
    """
    runtime = _cuda_runtime()
    if runtime is None:
        log.warning("memory not page-locked, CUDA runtime library missing", looked_for=CUDART_LIBRARIES)
        return False
    address = ctypes.c_void_p(array.ctypes.data)
    status = runtime.cudaHostRegister(address, ctypes.c_size_t(array.nbytes), CUDA_HOST_REGISTER_PORTABLE)
    if status:
        log.warning("memory not page-locked", cuda_error=status, bytes=array.nbytes)
        return False
    weakref.finalize(array, runtime.cudaHostUnregister, address)
    return True


def _cuda_runtime() -> ctypes.CDLL | None:
    for name in CUDART_LIBRARIES:  # ONNX Runtime's preload_dlls() loaded one of them
        with contextlib.suppress(OSError):
            return ctypes.CDLL(name)
    return None
