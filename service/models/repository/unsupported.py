"""Fields of config.pbtxt that the service ignores: refused if that would change answers, else named in a warning.

Every field that is set counts, unless it is listed here as one that the service acts on, or that promises nothing. So a
field that Triton adds is named too. Not here: the meaning of the other fields (config.py, engine_settings.py).
"""

from collections.abc import Iterator

from google.protobuf.message import Message

from service.pb.model_config_pb2 import ModelConfig

# Without them, the model would answer other than it should, or not at all.
REFUSED = (
    "sequence_batching",
    "ensemble_scheduling",
    "model_transaction_policy.decoupled",
    "model_operations",
    "batch_input",
    "batch_output",
    "input.is_shape_tensor",
    "input.allow_ragged_batch",
    "input.optional",
    "output.is_shape_tensor",
)
ACTED_ON = (
    "name",
    "platform",
    "backend",
    "version_policy",
    "max_batch_size",
    "input.name",
    "input.data_type",
    "input.format",
    "input.dims",
    "input.reshape",
    "output.name",
    "output.data_type",
    "output.dims",
    "output.label_filename",
    "output.reshape",
    "instance_group.name",
    "instance_group.count",
    "instance_group.gpus",
    "instance_group.kind",
    "default_model_filename",
    "dynamic_batching",
    "parameters",
    "model_repository_agents",
    # Copies to a GPU use page-locked memory anyway.
    "optimization.input_pinned_memory",
    "optimization.output_pinned_memory",
)
# Parameters that Triton's ONNX Runtime backend reads. Others are the operator's own.
# https://github.com/triton-inference-server/onnxruntime_backend#model-config-options
BACKEND_PARAMETERS = (
    "arena_extend_strategy",
    "cudnn_conv_algo_search",
    "cudnn_conv_use_max_workspace",
    "do_copy_in_default_stream",
    "enable_mem_arena",
    "enable_mem_pattern",
    "execution_mode",
    "gpu_mem_limit",
    "inter_op_thread_count",
    "intra_op_thread_count",
    "memory.enable_memory_arena_shrinkage",
)


def refused_fields(config: ModelConfig) -> list[str]:
    """The fields that the service cannot ignore, such as `sequence_batching`, each once."""
    return [field for field in _set_fields(config) if field in REFUSED]


def ignored_fields(config: ModelConfig) -> list[str]:
    """The fields that are ignored, such as `model_warmup` or `parameters["execution_mode"]`, each once."""
    fields = [field for field in _set_fields(config) if field not in (*REFUSED, *ACTED_ON)]
    accelerators = config.optimization.execution_accelerators
    names = [a.name for a in (*accelerators.gpu_execution_accelerator, *accelerators.cpu_execution_accelerator)]
    return [
        *(f"{field} ({', '.join(names)})" if field.endswith("execution_accelerators") else field for field in fields),
        *(f'parameters["{name}"]' for name in BACKEND_PARAMETERS if name in config.parameters),
    ]


def _set_fields(config: ModelConfig) -> list[str]:
    """The paths of the fields that are set, each once, in the order of the schema."""
    return list(dict.fromkeys(_paths(config, "")))


def _paths(message: Message, prefix: str) -> Iterator[str]:
    """The paths of the fields that are set, as far down as the lists above tell fields apart."""
    for descriptor, value in message.ListFields():
        path = prefix + descriptor.name
        if any(known.startswith(f"{path}.") for known in (*REFUSED, *ACTED_ON)):
            for part in [value] if isinstance(value, Message) else value:
                yield from _paths(part, f"{path}.")
        elif path in REFUSED or not isinstance(value, Message) or value.ListFields():  # not: response_cache { }
            yield path
