"""The graph in 8-bit integers: static quantisation by ONNX Runtime's own tool, calibrated on training images.

Owns: making it, and seeing whether it is worth having: as good within MOST_LOST, and faster on this machine. Source:
https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html
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

from training.export import INPUT, OUTPUT

CALIBRATION_IMAGES = 512
# Accuracy that may be lost, as a share.
MOST_LOST = 0.002
# Rows of the batches by which speed is compared, and how often each is run.
ROWS, REPEATS = 16, 60
# Kernels of other processors round elsewhere: probabilities of 8-bit graphs agree less than those of float32.
GOLDEN_TOLERANCE = 0.05


@dataclass(frozen=True)
class Comparison:
    """The 8-bit graph beside the one it was made of, on this machine and one thread."""

    accuracy: float  # on the test part
    probabilities: NDArray[np.float32]
    lost: float  # accuracy, as a share; negative if it gained
    speed: float  # times as many images a second, batches of ROWS
    smaller: float  # times fewer bytes

    @property
    def reason_against(self) -> str:
        """Why it is not worth publishing; "" if it is."""
        if self.lost > MOST_LOST:
            return f"it loses {100 * self.lost:.2f} points of accuracy, allowed {100 * MOST_LOST:.1f}"
        if self.speed <= 1:
            return f"it is not faster here: {self.speed:.2f} times the speed of float32"
        return ""


class _Images(CalibrationDataReader):  # type: ignore[misc] # ONNX Runtime ships no types
    def __init__(self, images: NDArray[np.uint8]) -> None:
        self._batches: Iterator[NDArray[np.uint8]] = iter(np.split(images, range(64, len(images), 64)))

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        batch = next(self._batches, None)
        return None if batch is None else {INPUT: batch}


def to_int8(model: bytes, images: NDArray[np.uint8]) -> bytes:
    """The graph with 8-bit convolutions and matrix products; ranges are those of the training images given."""
    with tempfile.TemporaryDirectory() as folder:
        source, prepared, result = (Path(folder) / name for name in ("float.onnx", "prepared.onnx", "int8.onnx"))
        source.write_bytes(model)
        quant_pre_process(source, prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared,
            result,
            _Images(images[:CALIBRATION_IMAGES]),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
            # 7 bits for weights: processors without VNNI add pairs of products in 16 bits, which would overflow.
            reduce_range=True,
            op_types_to_quantize=["Conv", "Gemm", "MatMul", "Relu", "MaxPool", "Reshape"],
        )
        return result.read_bytes()


def compare(
    original: bytes, quantised: bytes, images: NDArray[np.uint8], labels: NDArray[np.int64], accuracy: float
) -> Comparison:
    """Judge the 8-bit graph on the test images; `accuracy` is the original's there."""
    sessions = [_session(model) for model in (original, quantised)]
    probabilities = np.concatenate([_run(sessions[1], part) for part in np.split(images, range(64, len(images), 64))])
    reached = float((probabilities.argmax(1) == labels).mean())
    times: list[list[float]] = [[], []]
    for _ in range(REPEATS):
        for session, taken in zip(sessions, times, strict=True):  # in turn, so that both meet the same machine
            started = time.perf_counter()
            _run(session, images[:ROWS])
            taken.append(time.perf_counter() - started)
    return Comparison(
        accuracy=reached,
        probabilities=probabilities,
        lost=accuracy - reached,
        speed=median(times[0]) / median(times[1]),
        smaller=len(original) / len(quantised),
    )


def _session(model: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _run(session: onnxruntime.InferenceSession, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    (answer,) = session.run([OUTPUT], {INPUT: images})
    return np.asarray(answer, np.float32)
