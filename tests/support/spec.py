"""Model specifications for tests of decoding and encoding."""

from service.core.datatypes import BY_NAME
from service.core.spec import ModelSpec, TensorSpec
from service.pb.model_config_pb2 import ModelConfig


def spec_of(datatype: str, shape: tuple[int, ...] = (3,), *, max_batch_size: int = 8, tensors: int = 1) -> ModelSpec:
    """A model with inputs `x0`… and outputs `y0`…, all of that type and shape."""
    data_type = BY_NAME[datatype]
    inputs = tuple(TensorSpec(f"x{index}", data_type, shape) for index in range(tensors))
    outputs = tuple(TensorSpec(f"y{index}", data_type, shape) for index in range(tensors))
    return ModelSpec("m", 1, inputs, outputs, max_batch_size, ModelConfig())
