"""One ONNX Runtime session on one device.

Owns: choosing the device, the session's options, running a batch. Does not own: what is only true of GPUs (cuda.py,
buffers.py), what a batch is (batcher.py), whether the answers are right (verifier.py).
"""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from service.core.errors import ConfigurationError, DeviceUnavailable, EngineLost
from service.core.spec import Arrays, ModelSpec
from service.runtime import cuda
from service.runtime.cuda import DEFAULT_GPU_OPTIONS, GpuOptions
from service.runtime.io_binding import BatchBindings

CPU = "CPUExecutionProvider"
# What NumPy does not have; its number is TensorProto.BFLOAT16 in https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
BFLOAT16, BFLOAT16_NUMBER = "tensor(bfloat16)", 16


@dataclass(frozen=True)
class GraphTensor:
    """An input or output as the graph declares it: ONNX Runtime's type name, and None for each free axis."""

    name: str
    type: str
    shape: tuple[int | None, ...]


class Engine:
    """A loaded graph. `device` is `cpu` or `cuda:N`; `folder` holds the weights that lie outside the graph's file.

    Raises:
        DeviceUnavailable: ONNX Runtime did not take the device; by itself it falls back to another in silence.
    """

    def __init__(
        self,
        model: bytes,
        *,
        device: str,
        intra_op_threads: int,
        folder: Path | None = None,
        gpu: GpuOptions = DEFAULT_GPU_OPTIONS,
    ) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = intra_op_threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4  # its errors come as exceptions, which we log with the model's name
        # Threads that spin take the core from those that read requests.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if folder is not None:
            options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
        wanted = [] if device == "cpu" else cuda.providers(device, gpu)
        if wanted:
            onnxruntime.preload_dlls()
        self._session = onnxruntime.InferenceSession(model, options, providers=[*wanted, CPU])
        self._session.disable_fallback()  # from a GPU that fails to the CPU, in the middle of it all
        taken = self._session.get_providers()
        self.provider: str = taken[0]
        self.device = device
        for name, _ in wanted:
            if name not in taken:
                raise DeviceUnavailable(f"{name} on {device} was asked for, but ONNX Runtime took {', '.join(taken)}")
        self._gpu = gpu
        self._buffers: BatchBindings | None = None
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

    def bind(self, spec: ModelSpec, sizes: Sequence[int]) -> bool:
        """On a GPU, run from now on in batches of these sizes, each with memory of its own.

        Returns whether that is so: it takes a model that batches, of numbers, with no free axis but the batch.

        Raises:
            LoadError: CUDA graphs were asked for, and the model is none of that kind.
        """
        tensors = (*spec.inputs, *spec.outputs)
        free = [tensor.name for tensor in tensors if -1 in tensor.shape or tensor.data_type.name in ("BYTES", "BF16")]
        if self.device == "cpu":
            return False
        if free or not spec.batches:
            if self._gpu.graphs:
                why = f"{free[0]!r} has a free axis or is none of plain numbers" if free else "it does not batch"
                raise ConfigurationError(f"--cuda-graphs cannot be had for this model: {why}")
            return False
        self._buffers = BatchBindings(
            sizes,
            lambda rows: cuda.CudaBinding(
                self._session, spec.inputs, spec.outputs, rows, device=self.device, graph=self._gpu.graphs
            ),
        )
        return True

    def run(self, inputs: Arrays) -> Sequence[NDArray[np.generic]]:
        """The outputs for the inputs, both in the graph's order unless others were selected. Releases the GIL.

        Raises:
            EngineLost: the device is of no more use.
            Exception: whatever ONNX Runtime raises for inputs that the graph cannot take.
        """
        if self._buffers is not None:
            return self._buffers.run(inputs)
        try:
            outputs: Sequence[NDArray[np.generic]] = self._session_run(
                self._output_names, dict(zip(self._input_names, inputs, strict=True))
            )
        except Exception as error:
            if self.device != "cpu" and cuda.is_lost(error):
                raise EngineLost(str(error)) from error
            raise
        return outputs

    def input_buffers(self, rows: int) -> Arrays | None:
        """Where inputs of so many rows are best put together; None for anywhere."""
        return None if self._buffers is None else self._buffers.input_buffers(rows)

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
