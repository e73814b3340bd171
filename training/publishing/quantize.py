"""Static quantization to 8-bit integers with ONNX Runtime's tool, calibrated on training images.

Two 8-bit graphs are tried: with the first convolution in 8 bits and with it in float32. Of those that lose at most
MAX_ACCURACY_LOSS and are MIN_SPEEDUP times as fast on this machine, the fastest is worth publishing. The test split has
no part in this.

Source: https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html
"""

import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from training.data.dataset import Split
from training.publishing.export import INPUT, OUTPUT, runner

CALIBRATION_IMAGES = 512
MAX_ACCURACY_LOSS = 0.002
# A smaller gain is not worth another model, and timings on a shared machine differ by a few percent.
MIN_SPEEDUP = 1.1
# The kinds of 8-bit graph, by what the first convolution computes in.
FIRST_CONVOLUTION = ("int8", "float32")
# The speed comparison: rows per batch, and runs of each graph in a round. It ends after QUIET_ROUNDS in which no graph
# beat its fastest run by 1 %, which a busy machine delays, or after MAX_ROUNDS.
TIMED_ROWS, TIMED_RUNS = 16, 100
QUIET_ROUNDS, MAX_ROUNDS = 3, 10
# Images to compare the accuracy on, at most. Fewer validation images than the minimum cannot tell 0.2 points.
MIN_VALIDATION_IMAGES, MAX_IMAGES = 1000, 10_000
# 8-bit kernels of other processors round differently, so probabilities agree less closely than in float32.
GOLDEN_TOLERANCE = 0.05


@dataclass(frozen=True)
class Comparison:
    """An 8-bit graph compared with the float32 graph, on this machine with one thread."""

    model: bytes
    first_convolution: str  # int8 or float32
    accuracy_loss: float  # from 0 to 1; negative if the 8-bit graph is more accurate
    speedup: float  # ratio of images per second, in batches of TIMED_ROWS
    size_reduction: float  # ratio of bytes
    images: int  # that the accuracy was compared on
    split: str  # of these images: validation or training

    @property
    def reason_to_reject(self) -> str:
        """Why the 8-bit graph is not worth publishing; empty if it is."""
        if self.accuracy_loss > MAX_ACCURACY_LOSS:
            return (
                f"it loses {100 * self.accuracy_loss:.2f} points of accuracy on {self.images:,} {self.split} images, "
                f"allowed {100 * MAX_ACCURACY_LOSS:.1f}"
            )
        if self.speedup < MIN_SPEEDUP:
            return (
                f"it is not faster on this machine: {self.speedup:.2f} times the speed of float32, needed {MIN_SPEEDUP}"
            )
        return ""


def _shuffled(split: Split) -> Split:
    return split[torch.randperm(len(split), generator=torch.Generator().manual_seed(0))]


class _CalibrationImages(CalibrationDataReader):  # type: ignore[misc] # ONNX Runtime ships no types
    def __init__(self, images: NDArray[np.uint8]) -> None:
        self._batches: Iterator[NDArray[np.uint8]] = iter(np.split(images, range(64, len(images), 64)))

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        batch = next(self._batches, None)
        return None if batch is None else {INPUT: batch}


def best_int8(model: bytes, training: Split, validation: Split) -> Comparison:
    """The faster 8-bit graph of those worth publishing; if none is, the faster of those that are accurate enough.

    Its `reason_to_reject` says which it is. Ranges come from training images; accuracy is compared on validation
    images, or on other training images if those are fewer than MIN_VALIDATION_IMAGES.
    """
    training, validation = _shuffled(training), _shuffled(validation)  # those of folders stand class by class
    images = training.images[:CALIBRATION_IMAGES].numpy()
    candidates = {kind: to_int8(model, images, first_convolution=kind) for kind in FIRST_CONVOLUTION}
    if len(validation) >= MIN_VALIDATION_IMAGES:
        name, split = "validation", validation[:MAX_IMAGES]
    else:
        rest = training[CALIBRATION_IMAGES:] if len(training) >= 2 * CALIBRATION_IMAGES else training
        name, split = "training", rest[:MAX_IMAGES]
    baseline = _correct(model, split)
    seconds, *candidate_seconds = _fastest_runs([model, *candidates.values()], split.images.numpy()[:TIMED_ROWS])
    comparisons = [
        Comparison(
            model=candidate,
            first_convolution=kind,
            accuracy_loss=(baseline - _correct(candidate, split)) / len(split),
            speedup=seconds / its_seconds,
            size_reduction=len(model) / len(candidate),
            images=len(split),
            split=name,
        )
        for (kind, candidate), its_seconds in zip(candidates.items(), candidate_seconds, strict=True)
    ]
    acceptable = [comparison for comparison in comparisons if not comparison.reason_to_reject]
    if acceptable:
        return max(acceptable, key=lambda comparison: comparison.speedup)
    return min(comparisons, key=lambda comparison: (comparison.accuracy_loss > MAX_ACCURACY_LOSS, -comparison.speedup))


def to_int8(model: bytes, images: NDArray[np.uint8], *, first_convolution: str = "int8") -> bytes:
    """Quantize the graph's convolutions and matrix products, with ranges from these training images (N, H, W, C).

    The first convolution stays as it is if `first_convolution` is float32: it has few channels and much of the pixels'
    detail, so that 8 bits save little there and may cost accuracy.
    """
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
            nodes_to_exclude=_first_convolution(prepared) if first_convolution == "float32" else [],
        )
        return result.read_bytes()


def _first_convolution(path: Path) -> list[str]:
    """The name of the graph's first convolution; empty without one."""
    return [node.name for node in onnx.load(path).graph.node if node.op_type == "Conv"][:1]


def _correct(model: bytes, split: Split) -> int:
    """Images of the split that the graph classifies correctly."""
    return int((runner(model)(split.images.numpy()).argmax(1) == split.labels.numpy()).sum())


def _fastest_runs(models: Sequence[bytes], batch: NDArray[np.uint8]) -> list[float]:
    """Seconds of each graph's fastest run on the batch.

    Other load only adds to a run's time, so the minimum of many is what the graph itself takes. The graphs take turns,
    so that load slows all of them alike.
    """
    sessions = [_session(model) for model in models]
    fastest = [float("inf")] * len(models)
    quiet_rounds = 0
    for _ in range(MAX_ROUNDS):
        before = fastest.copy()
        for _ in range(TIMED_RUNS):
            for index, session in enumerate(sessions):
                started = time.perf_counter()
                session.run([OUTPUT], {INPUT: batch})
                fastest[index] = min(fastest[index], time.perf_counter() - started)
        improved = any(now < 0.99 * then for now, then in zip(fastest, before, strict=True))
        quiet_rounds = 0 if improved else quiet_rounds + 1
        if quiet_rounds == QUIET_ROUNDS:
            break
    return fastest


def _session(model: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
