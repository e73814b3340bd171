"""Static quantization to 8-bit integers with ONNX Runtime's tool, calibrated on training images.

The 8-bit graph is worth publishing if it loses at most MAX_ACCURACY_LOSS and is faster on this machine.
Source: https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html
"""

import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from training.publishing.export import INPUT, OUTPUT

CALIBRATION_IMAGES = 512
MAX_ACCURACY_LOSS = 0.002
# The speed comparison: rows per batch, and runs of each graph.
TIMED_ROWS, TIMED_RUNS = 16, 60
# 8-bit kernels of other processors round differently, so probabilities agree less closely than in float32.
GOLDEN_TOLERANCE = 0.05


@dataclass(frozen=True)
class Comparison:
    """The 8-bit graph compared with the float32 graph, on this machine with one thread."""

    accuracy: float  # on the test split
    probabilities: NDArray[np.float32]
    accuracy_loss: float  # from 0 to 1; negative if the 8-bit graph is more accurate
    speedup: float  # ratio of images per second, in batches of TIMED_ROWS
    size_reduction: float  # ratio of bytes

    @property
    def reason_to_reject(self) -> str:
        """Why the 8-bit graph is not worth publishing; empty if it is."""
        if self.accuracy_loss > MAX_ACCURACY_LOSS:
            return f"it loses {100 * self.accuracy_loss:.2f} points of accuracy, allowed {100 * MAX_ACCURACY_LOSS:.1f}"
        if self.speedup <= 1:
            return f"it is not faster on this machine: {self.speedup:.2f} times the speed of float32"
        return ""


class _CalibrationImages(CalibrationDataReader):  # type: ignore[misc] # ONNX Runtime ships no types
    def __init__(self, images: NDArray[np.uint8]) -> None:
        self._batches: Iterator[NDArray[np.uint8]] = iter(np.split(images, range(64, len(images), 64)))

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        batch = next(self._batches, None)
        return None if batch is None else {INPUT: batch}


def to_int8(model: bytes, images: NDArray[np.uint8]) -> bytes:
    """Quantize the graph's convolutions and matrix products, with ranges from these training images (N, H, W, C)."""
    with tempfile.TemporaryDirectory() as folder:
        source, prepared, result = (Path(folder) / name for name in ("float.onnx", "prepared.onnx", "int8.onnx"))
        source.write_bytes(model)
        quant_pre_process(source, prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared,
            result,
            _CalibrationImages(images[:CALIBRATION_IMAGES]),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
            # 7-bit weights: processors without VNNI add pairs of products in 16 bits, which 8-bit weights overflow.
            reduce_range=True,
            op_types_to_quantize=["Conv", "Gemm", "MatMul", "Relu", "MaxPool", "Reshape"],
        )
        return result.read_bytes()


def compare(
    original: bytes, quantized: bytes, images: NDArray[np.uint8], labels: NDArray[np.int64], accuracy: float
) -> Comparison:
    """Compare the 8-bit graph with the original on the test images; `accuracy` is the original's."""
    sessions = [_session(model) for model in (original, quantized)]
    batches = np.split(images, range(64, len(images), 64))
    probabilities = np.concatenate([_run(sessions[1], batch) for batch in batches])
    quantized_accuracy = float((probabilities.argmax(1) == labels).mean())
    times: list[list[float]] = [[], []]
    for _ in range(TIMED_RUNS):
        for session, seconds in zip(sessions, times, strict=True):  # alternate, so that other load slows both alike
            started = time.perf_counter()
            _run(session, images[:TIMED_ROWS])
            seconds.append(time.perf_counter() - started)
    return Comparison(
        accuracy=quantized_accuracy,
        probabilities=probabilities,
        accuracy_loss=accuracy - quantized_accuracy,
        speedup=median(times[0]) / median(times[1]),
        size_reduction=len(original) / len(quantized),
    )


def _session(model: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _run(session: onnxruntime.InferenceSession, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    (probabilities,) = session.run([OUTPUT], {INPUT: images})
    return np.asarray(probabilities, np.float32)
