"""From weights to an ONNX graph that answers exactly as torch does.

Owns: the export and the proof of parity. Does not own: where the file goes (publish.py).

The graph takes raw pixels, `images` uint8 [N, H, W, C], and returns `probabilities` float32 [N, classes]; scaling,
layout and softmax are inside, and N is the only free axis.
"""

import io
from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.errors import ParityError
from training.networks import Classifier

INPUT, OUTPUT = "images", "probabilities"
OPSET = 20
# Largest |torch − ONNX| that a probability may show, and largest change from being batched with others. Both are
# float32 rounding in another order of summation.
TOLERANCE = 1e-5


@dataclass(frozen=True)
class Parity:
    """What was found when both answered the same images, and the answers of ONNX Runtime."""

    max_difference: float  # |torch − ONNX|, over all probabilities
    max_batch_difference: float  # |alone − in a batch|, over the images that were also run alone
    probabilities: NDArray[np.float32]  # (N, classes)


def to_onnx(model: Classifier, example: Tensor) -> bytes:
    """Export the classifier; `example` is raw images uint8 (2 or more, H, W, C).

    Raises:
        onnx.checker.ValidationError: the graph is not valid ONNX.
        ParityError: it is, but not of the form that is promised.
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
    assert program is not None  # only None when export is asked to write a file by itself
    graph = program.model_proto
    # The exporter notes source files and lines of this machine in every node; they help nobody and leak paths.
    for node in graph.graph.node:
        del node.metadata_props[:]
    onnx.checker.check_model(graph, full_check=True)
    check_form(graph, (*example.shape[1:],))
    buffer = io.BytesIO()
    onnx.save(graph, buffer)
    return buffer.getvalue()


def check_form(graph: onnx.ModelProto, image: tuple[int, ...]) -> None:
    """See that the graph is of the promised opset, takes images of that size, and that the batch alone is free.

    Raises:
        ParityError: it does not.
    """
    opsets = {entry.domain: entry.version for entry in graph.opset_import}
    (given,), (answer,) = graph.graph.input, graph.graph.output
    free, *sizes = given.type.tensor_type.shape.dim
    answer_free, classes = answer.type.tensor_type.shape.dim
    if (
        opsets.get("") != OPSET
        or tuple(size.dim_value for size in sizes) != image
        or not free.dim_param
        or answer_free.dim_param != free.dim_param
        or not classes.dim_value
    ):
        raise ParityError(
            f"the exporter made a graph of another form: opsets {opsets}, input {given.type.tensor_type.shape}, "
            f"output {answer.type.tensor_type.shape}; nothing was published"
        )


def check_parity(model: bytes, images: Tensor, expected: Tensor, *, alone: int = 200) -> Parity:
    """Answer `images` with ONNX Runtime and compare with torch's `expected` probabilities (N, classes).

    The first `alone` images are also run one by one, to see what batching changes.

    Raises:
        ParityError: a label differs, or a probability differs by more than TOLERANCE.
    """
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])

    def run(batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        (answer,) = session.run([OUTPUT], {INPUT: batch})
        return np.asarray(answer, np.float32)

    pixels, reference = images.numpy(), expected.numpy()
    answers = np.concatenate([run(pixels[at : at + 64]) for at in range(0, len(pixels), 64)])
    singles = np.concatenate([run(pixels[at : at + 1]) for at in range(min(alone, len(pixels)))])
    parity = Parity(
        max_difference=float(np.abs(answers - reference).max()),
        max_batch_difference=float(np.abs(singles - answers[: len(singles)]).max()),
        probabilities=answers,
    )
    flips = int((answers.argmax(1) != reference.argmax(1)).sum())
    if flips or not parity.max_difference <= TOLERANCE:
        raise ParityError(
            f"ONNX Runtime and torch disagree: {flips} of {len(pixels)} labels differ, "
            f"largest difference {parity.max_difference:.2e}, allowed {TOLERANCE:.0e}; nothing was published"
        )
    if not parity.max_batch_difference <= TOLERANCE:
        raise ParityError(
            f"an answer changes by {parity.max_batch_difference:.2e} in a batch, allowed {TOLERANCE:.0e}; "
            "nothing was published"
        )
    return parity
