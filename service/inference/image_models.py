"""Which models classify images: the input that takes an image, and the output that has its classes.

Not here: the classification of images (classification.py).
"""

from service.core.errors import InvalidArgument
from service.core.spec import ModelSpec


def image_shape(spec: ModelSpec) -> tuple[int, int, int]:
    """(height, width, channels) of the model's input.

    Raises:
        InvalidArgument: the model does not take images.
    """
    if len(spec.inputs) == 1 and spec.batches:
        (tensor,) = spec.inputs
        if tensor.data_type.name == "UINT8" and len(tensor.shape) == 3 and tensor.shape[2] in (1, 3):
            height, width, channels = tensor.shape
            if height > 0 and width > 0:
                return height, width, channels
    found = ", ".join(f"{tensor.data_type.name} {list(tensor.shape)}" for tensor in spec.inputs)
    raise InvalidArgument(
        "model_name",
        f"model {spec.name!r} takes no images: expected UINT8 [N, height, width, 1 or 3], but it takes {found}",
    )


def class_output(spec: ModelSpec) -> int:
    """The index of the output with one probability a class: the output with labels, or the only output of that form.

    Raises:
        InvalidArgument: no output or several outputs qualify.
    """
    outputs = [
        index
        for index, tensor in enumerate(spec.outputs)
        if tensor.data_type.dtype.kind == "f" and len(tensor.shape) == 1
    ]
    candidates = [index for index in outputs if spec.outputs[index].labels] or outputs
    if len(candidates) != 1:
        raise InvalidArgument(
            "model_name",
            f"model {spec.name!r} expected one output with a probability a class, but has {len(candidates)}",
        )
    return candidates[0]
