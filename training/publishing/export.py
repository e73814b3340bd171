"""Export to ONNX, and the parity check against PyTorch.

The graph takes raw pixels, `images` uint8 [N, H, W, C], and returns `probabilities` float32 [N, classes].
Normalization, layout and softmax are inside it, and N is its only dynamic axis. Its metadata has the fit: how a picture
becomes such pixels.

Not here: golden answers (golden.py), writing the file into the repository (publish.py).
"""

import io
import json
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor

from service.pictures.fit import Fit
from training.errors import ParityError
from training.networks.classifier import Classifier

INPUT, OUTPUT = "images", "probabilities"
FIT = "simplecnn.fit"  # the key of the fit's record in the graph's metadata, as JSON
OPSET = 20
# Largest allowed difference of a probability, between PyTorch and ONNX Runtime and between an image alone and in a
# batch. Both come from float32 sums in another order.
TOLERANCE = 1e-5
PARITY_BATCH_SIZE = 64

# An exported graph: images uint8 (N, H, W, C) to probabilities float32 (N, classes).
Run = Callable[[NDArray[np.uint8]], NDArray[np.float32]]


@dataclass(frozen=True)
class Parity:
    """The result of a parity check, and ONNX Runtime's probabilities."""

    max_abs_diff: float  # |PyTorch − ONNX Runtime|, over all probabilities
    batch_max_abs_diff: float  # |alone − in a batch|, over the images that also ran alone
    ties: int  # images whose label differs because two classes are as probable, within TOLERANCE
    probabilities: NDArray[np.float32]  # (N, classes)


def to_onnx(model: Classifier, example: Tensor, fit: Fit | None = None) -> bytes:
    """Export the classifier; `example` is two or more raw images, uint8 (N, H, W, C). The graph records the fit.

    Raises:
        onnx.checker.ValidationError: the graph is not valid ONNX.
        ParityError: its opset, input or output is not as described above.
    """
    program = torch.onnx.export(
        model.eval(),
        (example,),
        input_names=[INPUT],
        output_names=[OUTPUT],
        dynamic_shapes={"images": {0: torch.export.Dim("N")}},
        opset_version=OPSET,
        dynamo=True,
        verbose=False,
    )
    assert program is not None  # it is None only if torch.onnx.export writes the file itself
    graph = program.model_proto
    # The exporter records source files and lines in every node, which would leak this machine's paths.
    for node in graph.graph.node:
        del node.metadata_props[:]
    if fit:
        graph.metadata_props.add(key=FIT, value=json.dumps(fit.record()))
    onnx.checker.check_model(graph, full_check=True)
    check_signature(graph, (*example.shape[1:],))
    buffer = io.BytesIO()
    onnx.save(graph, buffer)
    return buffer.getvalue()


def check_signature(graph: onnx.ModelProto, image_shape: tuple[int, ...]) -> None:
    """Check the graph's opset, its input's shape, and that the batch is its only dynamic axis.

    Raises:
        ParityError: one of them is wrong.
    """
    opsets = {entry.domain: entry.version for entry in graph.opset_import}
    (graph_input,), (graph_output,) = graph.graph.input, graph.graph.output
    batch, *image = graph_input.type.tensor_type.shape.dim
    output_batch, classes = graph_output.type.tensor_type.shape.dim
    if (
        opsets.get("") != OPSET
        or tuple(axis.dim_value for axis in image) != image_shape
        or not batch.dim_param
        or output_batch.dim_param != batch.dim_param
        or not classes.dim_value
    ):
        raise ParityError(
            f"the exported graph has another signature: opsets {opsets}, "
            f"input {graph_input.type.tensor_type.shape}, output {graph_output.type.tensor_type.shape}; "
            "nothing was published"
        )


def runner(model: bytes) -> Run:
    """The exported graph, run by ONNX Runtime on the CPU, in batches of at most PARITY_BATCH_SIZE."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])

    def run(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        starts = range(0, len(images), PARITY_BATCH_SIZE)
        batches = [session.run([OUTPUT], {INPUT: images[start : start + PARITY_BATCH_SIZE]})[0] for start in starts]
        return np.concatenate(batches).astype(np.float32, copy=False)

    return run


def labels_differ(expected: NDArray[np.float32], found: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Whether each row of two arrays of probabilities (N, classes) has another label; (N,).

    A tie is no difference: where the two labels are within TOLERANCE in `expected`, rounding decides between them.
    """
    rows = np.arange(len(expected))
    gaps = expected[rows, expected.argmax(1)] - expected[rows, found.argmax(1)]  # (N,), not negative
    differ: NDArray[np.bool_] = gaps > TOLERANCE
    return differ


def check_parity(model: bytes, images: Tensor, expected: Tensor, *, alone: int = 200) -> Parity:
    """Run `images` in ONNX Runtime and compare with PyTorch's `expected` probabilities (N, classes).

    The first `alone` images also run one by one, to measure what batching changes.

    Raises:
        ParityError: a label differs that is no tie, or a probability differs by more than TOLERANCE.
    """
    run = runner(model)
    pixels, reference = images.numpy(), expected.numpy()
    probabilities = run(pixels)
    singles = np.concatenate([run(pixels[index : index + 1]) for index in range(min(alone, len(pixels)))])
    parity = Parity(
        max_abs_diff=float(np.abs(probabilities - reference).max()),
        batch_max_abs_diff=float(np.abs(singles - probabilities[: len(singles)]).max()),
        ties=int((probabilities.argmax(1) != reference.argmax(1)).sum()),
        probabilities=probabilities,
    )
    different_labels = int(labels_differ(reference, probabilities).sum())
    if different_labels or not parity.max_abs_diff <= TOLERANCE:
        raise ParityError(
            f"ONNX Runtime and PyTorch disagree: {different_labels} of {len(pixels)} labels differ, "
            f"largest difference {parity.max_abs_diff:.2e}, allowed {TOLERANCE:.0e}; nothing was published"
        )
    if not parity.batch_max_abs_diff <= TOLERANCE:
        raise ParityError(
            f"a probability changes by {parity.batch_max_abs_diff:.2e} in a batch, allowed {TOLERANCE:.0e}; "
            "nothing was published"
        )
    return parity
