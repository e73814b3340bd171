"""Reads config.pbtxt, completes it from the graph, and refuses contradictions between the two.

Owns the defaults for fields that the configuration leaves out, and the error messages, which name both sides of a
contradiction. A byte order mark, which some editors write, is passed over. Not here: the other files of a model
(repository.py), labels (labels.py), opening the graph (runtime/session.py).
"""

from collections.abc import Sequence

from google.protobuf import text_format

from service.core.datatypes import BY_CONFIG, BY_ONNX
from service.core.errors import ConfigurationError
from service.core.spec import ModelSpec, TensorSpec
from service.models.labels import with_labels
from service.models.repository import BACKEND, CONFIG, PLATFORM, ModelFolder, read_optional
from service.pb.model_config_pb2 import DataType, ModelConfig, ModelDynamicBatching, ModelInput, ModelOutput
from service.runtime.session import Engine, GraphTensor

# Triton's default for a graph with a free first axis and no configuration.
DERIVED_MAX_BATCH_SIZE = 4


def read_config(folder: ModelFolder) -> ModelConfig:
    """Read the model's config.pbtxt; an empty configuration if the file is absent.

    Raises:
        ConfigurationError: the file is not a ModelConfig, names another model, or sets an unsupported field.
        FilesUnreadable: the file cannot be read.
    """
    path = folder.path / CONFIG
    config = ModelConfig()
    try:
        text_format.Parse((read_optional(path) or b"").decode("utf-8-sig"), config)
    except (UnicodeDecodeError, text_format.ParseError) as error:
        raise ConfigurationError(f"{path} cannot be read: {error}") from error
    if config.name and config.name != folder.name:
        raise ConfigurationError(f"{path} names the model {config.name!r}, its folder {folder.name!r}")
    if config.platform not in ("", PLATFORM) or config.backend not in ("", BACKEND):
        raise ConfigurationError(
            f"{path}: this service supports platform {PLATFORM!r}, not {config.platform or config.backend!r}"
        )
    if config.max_batch_size < 0:
        raise ConfigurationError(f"{path}: max_batch_size is {config.max_batch_size}, expected 0 or more")
    unsupported = [field for field in _unsupported_fields(config) if field]
    if unsupported:
        raise ConfigurationError(f"{path}: this service does not support {', '.join(unsupported)}; remove it")
    return config


def _unsupported_fields(config: ModelConfig) -> list[str]:
    """The fields that are set, would change a model's answers, and are not supported. Ignoring them would be wrong."""
    return [
        "sequence_batching" if config.HasField("sequence_batching") else "",
        "ensemble_scheduling" if config.HasField("ensemble_scheduling") else "",
        "model_transaction_policy.decoupled" if config.model_transaction_policy.decoupled else "",
        "batch_input" if config.batch_input else "",
        "batch_output" if config.batch_output else "",
        "input.reshape" if any(tensor.HasField("reshape") for tensor in config.input) else "",
        "output.reshape" if any(tensor.HasField("reshape") for tensor in config.output) else "",
        "input.allow_ragged_batch" if any(tensor.allow_ragged_batch for tensor in config.input) else "",
        "input.optional" if any(tensor.optional for tensor in config.input) else "",
    ]


def complete_spec(
    folder: ModelFolder,
    version: int,
    config: ModelConfig,
    engine: Engine,
    *,
    manifest_labels: tuple[str, ...] | None = None,
) -> ModelSpec:
    """Complete the configuration from the graph, and check that the two agree.

    Raises:
        ConfigurationError: the two contradict each other, or the graph uses an unsupported element type.
        FilesError: the labels do not fit, as with_labels().
    """
    name = folder.name
    free_first = all(tensor.shape and tensor.shape[0] is None for tensor in (*engine.inputs, *engine.outputs))
    complete = ModelConfig()
    complete.CopyFrom(config)
    complete.name, complete.platform, complete.backend = name, PLATFORM, BACKEND
    if not (config.input or config.output or config.max_batch_size):
        complete.max_batch_size = DERIVED_MAX_BATCH_SIZE if free_first else 0
        if free_first and not config.HasField("dynamic_batching"):
            complete.dynamic_batching.CopyFrom(ModelDynamicBatching())
    batches = complete.max_batch_size > 0
    if batches and not free_first:
        fixed = next(t for t in (*engine.inputs, *engine.outputs) if not t.shape or t.shape[0] is not None)
        raise ConfigurationError(
            f"max_batch_size is {complete.max_batch_size}, but the first axis of {fixed.name!r} is not free: "
            f"its shape is {_show(fixed.shape)}; set max_batch_size to 0 or export with a free batch axis"
        )
    inputs = _match("input", list(config.input), engine.inputs, batches)
    outputs = with_labels(
        _match("output", list(config.output), engine.outputs, batches), folder, version, complete, manifest_labels
    )
    _write_back(complete, inputs, outputs)
    return ModelSpec(name, version, inputs, outputs, complete.max_batch_size, complete)


def _match(
    kind: str, declared: Sequence[ModelInput | ModelOutput], graph: Sequence[GraphTensor], batches: bool
) -> tuple[TensorSpec, ...]:
    """The specs of the graph's tensors, in its order; the configuration may omit outputs and fix free axes."""
    by_name = {tensor.name: tensor for tensor in declared}
    names = [tensor.name for tensor in graph]
    unknown = sorted(by_name.keys() - set(names))
    omitted = sorted(set(names) - by_name.keys()) if kind == "input" else []
    if declared and (unknown or omitted):
        raise ConfigurationError(
            f"config.pbtxt and the graph differ in {kind} {(unknown or omitted)[0]!r}: "
            f"config.pbtxt has {sorted(by_name)}, the graph has {names}"
        )
    if declared and kind == "output":
        graph = [tensor for tensor in graph if tensor.name in by_name]
    specs = []
    for tensor in graph:
        if tensor.type not in BY_ONNX:
            raise ConfigurationError(
                f"{kind} {tensor.name!r} has type {tensor.type}; supported types: {', '.join(BY_ONNX)}"
            )
        spec = TensorSpec(
            tensor.name,
            BY_ONNX[tensor.type],
            tuple(-1 if axis is None else axis for axis in tensor.shape[1 if batches else 0 :]),
        )
        if tensor.name in by_name:
            spec = _apply_declaration(kind, spec, by_name[tensor.name])
        specs.append(spec)
    return tuple(specs)


def _apply_declaration(kind: str, graph: TensorSpec, declared: ModelInput | ModelOutput) -> TensorSpec:
    """Check a declared tensor against the graph's; the declaration may fix axes that are free in the graph."""
    expected = BY_CONFIG.get(DataType.Name(declared.data_type))
    if expected is not graph.data_type:
        raise ConfigurationError(
            f"{kind} {graph.name!r}: config.pbtxt says {DataType.Name(declared.data_type)}, "
            f"the graph has {graph.data_type.config}"
        )
    dims = tuple(declared.dims)
    compatible = len(dims) == len(graph.shape) and all(
        axis in (-1, graph_axis) or (graph_axis == -1 and axis > 0)
        for axis, graph_axis in zip(dims, graph.shape, strict=True)
    )
    if not compatible:
        raise ConfigurationError(
            f"{kind} {graph.name!r}: config.pbtxt says dims {_show(dims)}, the graph has {_show(graph.shape)} "
            "(both without the batch axis if max_batch_size > 0)"
        )
    shape = tuple(max(axis, graph_axis) for axis, graph_axis in zip(dims, graph.shape, strict=True))
    return TensorSpec(graph.name, graph.data_type, shape)


def _write_back(config: ModelConfig, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> None:
    """Write the matched tensors into the configuration that the ModelConfig method returns."""
    declared_inputs = {tensor.name: tensor for tensor in config.input}
    declared_outputs = {tensor.name: tensor for tensor in config.output}
    new_inputs, new_outputs = [], []
    for spec in inputs:
        tensor = ModelInput(name=spec.name, data_type=spec.data_type.config, dims=spec.shape)
        if spec.name in declared_inputs:
            tensor.format = declared_inputs[spec.name].format
        new_inputs.append(tensor)
    for spec in outputs:
        result = ModelOutput(name=spec.name, data_type=spec.data_type.config, dims=spec.shape)
        if spec.name in declared_outputs:
            result.label_filename = declared_outputs[spec.name].label_filename
        new_outputs.append(result)
    del config.input[:]
    del config.output[:]
    config.input.extend(new_inputs)
    config.output.extend(new_outputs)


def _show(shape: Sequence[int | None]) -> str:
    return "[" + ", ".join("-1" if axis is None else str(axis) for axis in shape) + "]"
