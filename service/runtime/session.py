"""The engine: one ONNX Runtime session on one device.

Owns the session's options, the check that ONNX Runtime took the requested device, and running a batch. Not here:
everything specific to GPUs (cuda.py, io_binding.py), the choice of devices (devices.py), forming batches
(batching/batcher.py), verifying answers (models/verification/).
"""

import ctypes
import mmap
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from service.core.errors import EngineLost
from service.core.load_errors import ConfigurationError, DeviceUnavailable
from service.core.signature import read_signature
from service.core.spec import Arrays, ModelSpec
from service.runtime import cuda
from service.runtime.cuda import DEFAULT_GPU_OPTIONS, GpuOptions
from service.runtime.io_binding import BatchBindings
from service.runtime.reshape import Reshapes, in_graph

CPU = "CPUExecutionProvider"
# NumPy has no bfloat16. Its number is TensorProto.BFLOAT16 in https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
BFLOAT16, BFLOAT16_NUMBER = "tensor(bfloat16)", 16

NO_WEIGHTS: Mapping[str, bytes | mmap.mmap] = MappingProxyType({})


class Engine:
    """A loaded graph on `device`, `cpu` or `cuda:N`.

    `folder` is the folder of the graph's file. `weights` are the contents of all weight files that the graph names, by
    name; they must not change while the engine lives, which does not copy them.

    Raises:
        DeviceUnavailable: ONNX Runtime did not take the device; without this check it would fall back silently.
    """

    def __init__(
        self,
        model: bytes,
        *,
        device: str,
        intra_op_threads: int,
        folder: Path | None = None,
        weights: Mapping[str, bytes | mmap.mmap] = NO_WEIGHTS,
        gpu: GpuOptions = DEFAULT_GPU_OPTIONS,
    ) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = intra_op_threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4  # errors are also raised; the service logs them with the model's name
        # Spinning threads would take the core from the threads that read requests.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if folder is not None:
            options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
        if weights:  # given, not left to ONNX Runtime, which refuses files behind links
            options.add_external_initializers_from_files_in_memory(
                list(weights), list(weights.values()), [len(content) for content in weights.values()]
            )
            options.add_session_config_entry("session.use_external_initializer_file_buffers_directly", "1")
        self._weights = weights
        requested = [] if device == "cpu" else cuda.providers(device, gpu)
        if requested:
            onnxruntime.preload_dlls()
        self._session = onnxruntime.InferenceSession(model, options, providers=[*requested, CPU])
        self._session.disable_fallback()  # else a GPU that fails would silently be replaced by the CPU
        active = self._session.get_providers()
        self.provider: str = active[0]
        self.device = device
        for name, _ in requested:
            if name not in active:
                raise DeviceUnavailable(f"{name} on {device} was requested, but ONNX Runtime took {', '.join(active)}")
        self.half_precision = bool(requested) and gpu.fp16
        self._gpu = gpu
        self._buffers: BatchBindings | None = None
        self._reshapes: Reshapes | None = None
        self.signature = read_signature(self._session)
        inputs, outputs = self.signature.inputs, self.signature.outputs
        self._input_names = [tensor.name for tensor in inputs]
        self._output_names = [tensor.name for tensor in outputs]
        if any(tensor.type == BFLOAT16 for tensor in (*inputs, *outputs)):
            self._session_run = self._run_bfloat16
        else:
            self._session_run = self._session.run

    def serve(self, spec: ModelSpec) -> None:
        """From now on, take and return tensors as the spec has them: its outputs, its order, its shapes."""
        self._output_names = [tensor.name for tensor in spec.outputs]
        reshapes = Reshapes(spec)
        self._reshapes = reshapes if reshapes else None

    def bind(self, spec: ModelSpec, sizes: Sequence[int]) -> bool:
        """On a GPU, bind memory for batches of these sizes, and run only in these sizes from now on.

        Returns whether the engine is bound. The model must batch, be numeric and have no free axis but the batch.

        Raises:
            ConfigurationError: CUDA graphs were requested, and the model cannot be bound.
        """
        inputs, outputs = [in_graph(tensor) for tensor in spec.inputs], [in_graph(tensor) for tensor in spec.outputs]
        tensors = (*inputs, *outputs)
        unbindable = [
            tensor.name for tensor in tensors if -1 in tensor.shape or tensor.data_type.name in ("BYTES", "BF16")
        ]
        if self.device == "cpu":
            return False
        if unbindable or not spec.batches:
            if self._gpu.graphs:
                reason = f"{unbindable[0]!r} has a free axis or is BYTES or BF16" if unbindable else "it does not batch"
                raise ConfigurationError(f"--cuda-graphs does not work with this model: {reason}")
            return False
        self._buffers = BatchBindings(
            sizes,
            lambda rows: cuda.CudaBinding(
                self._session, inputs, outputs, rows, device=self.device, graph=self._gpu.graphs
            ),
        )
        return True

    def unbind(self) -> None:
        """From now on, run batches of any size, without padding, in memory that is allocated for each run.

        Raises:
            ConfigurationError: CUDA graphs were requested, which need bound memory.
        """
        if self._buffers is not None and self._gpu.graphs:
            raise ConfigurationError("--cuda-graphs does not work with this model: its rows must not share a batch")
        self._buffers = None

    def run(self, inputs: Arrays) -> Sequence[NDArray[np.generic]]:
        """The outputs, in the graph's order or as served, for inputs in the graph's order. Releases the GIL.

        Raises:
            EngineLost: the process cannot use the device any more.
            Exception: any error that ONNX Runtime raises for inputs that the graph cannot run on.
        """
        if self._reshapes is None:
            return self._run(inputs)
        return self._reshapes.from_graph(self._run(self._reshapes.to_graph(inputs)))

    def input_buffers(self, rows: int) -> Arrays | None:
        """As Backend.input_buffers()."""
        if self._buffers is None or self._reshapes is not None:  # the buffers have the graph's shapes
            return None
        return self._buffers.input_buffers(rows)

    def _run(self, inputs: Arrays) -> Sequence[NDArray[np.generic]]:
        if self._buffers is not None:
            return self._buffers.run(inputs)
        try:
            outputs: Sequence[NDArray[np.generic]] = self._session_run(
                self._output_names, dict(zip(self._input_names, inputs, strict=True))
            )
        except Exception as error:
            if self.device != "cpu" and cuda.is_sticky(error):
                raise EngineLost(str(error)) from error
            raise
        return outputs

    def _run_bfloat16(self, names: list[str], inputs: dict[str, NDArray[np.generic]]) -> list[NDArray[np.generic]]:
        """As the session's run, for graphs with bfloat16 tensors, which are passed as uint16."""
        make = onnxruntime.OrtValue
        values = {
            tensor.name: make.ortvalue_from_numpy_with_onnx_type(np.ascontiguousarray(array), BFLOAT16_NUMBER)
            if tensor.type == BFLOAT16
            else make.ortvalue_from_numpy(np.ascontiguousarray(array))
            for tensor, array in zip(self.signature.inputs, inputs.values(), strict=True)
        }
        return [_array(value) for value in self._session.run_with_ort_values(names, values)]


def _array(value: onnxruntime.OrtValue) -> NDArray[np.generic]:
    """The value's elements; bfloat16 as a uint16 copy."""
    if value.data_type() != BFLOAT16:
        array: NDArray[np.generic] = value.numpy()
        return array
    shape = tuple(value.shape())
    if 0 in shape:
        return np.empty(shape, np.uint16)
    bits = ctypes.cast(value.data_ptr(), ctypes.POINTER(ctypes.c_uint16))
    return np.ctypeslib.as_array(bits, shape).copy()
