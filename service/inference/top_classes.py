"""The classes with the highest values of an output, and the classification extension of ModelInfer.

Not here: the choice of the output (decode.py, classification.py).
"""

import numpy as np
from numpy.typing import NDArray

from service.core.spec import TensorSpec


def classification_strings(
    values: NDArray[np.generic], count: int, output: TensorSpec, *, batches: bool
) -> NDArray[np.generic]:
    """The `count` classes with the highest values of each row in Triton's form: "value:index" or "value:index:label".

    values: (rows, …), or (…) if the model does not batch; the result is (rows, count) or (count,).
    Source: https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_classification.md
    """
    rows = values.reshape(len(values), -1) if batches else values.reshape(1, -1)
    numbers = bfloat16_to_float(rows) if output.data_type.name == "BF16" else rows
    best = top_classes(numbers, count)
    form = "{:f}" if numbers.dtype.kind == "f" else "{:d}"
    texts = np.empty(best.shape, np.object_)
    for position, index in np.ndenumerate(best):
        text = f"{form.format(numbers[position[0], index].item())}:{index}"
        texts[position] = f"{text}:{output.labels[index]}" if index < len(output.labels) else text
    return texts if batches else texts[0]


def top_classes(values: NDArray[np.generic], count: int) -> NDArray[np.int64]:
    """The indices of the `count` highest values along the last axis, highest first."""
    return np.argsort(-values.astype(np.float64), axis=-1, kind="stable")[..., :count]


def bfloat16_to_float(bits: NDArray[np.generic]) -> NDArray[np.float32]:
    """BF16 values, given as their bits in uint16, as FP32: BF16 is the upper half of FP32."""
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)
