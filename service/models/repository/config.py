"""Reads config.pbtxt, completes it from the graph, and refuses contradictions between the two.

Owns the defaults for fields that the configuration leaves out, and the error messages, which name both sides of a
contradiction. A byte order mark, which some editors write, is passed over. Not here: fields that the service does not
act on (unsupported.py), values of those that it acts on (engine_fields.py), labels (labels.py), the other files of a
model (version_files.py), opening the graph (runtime/session.py).
"""

from collections.abc import Sequence
from typing import TypeVar

from google.protobuf import text_format

from service.core.datatypes import BY_CONFIG, BY_ONNX
from service.core.load_errors import ConfigurationError
from service.core.signature import GraphSignature, GraphTensor
from service.core.spec import ModelSpec, TensorSpec
from service.models.repository.labels import with_labels
from service.models.repository.unsupported import refused_fields
from service.models.repository.version_files import BACKEND, CONFIG, PLATFORM, ModelFolder, read_optional
from service.pb.model_config_pb2 import DataType, ModelConfig, ModelDynamicBatching, ModelInput, ModelOutput

Declared = TypeVar("Declared", ModelInput, ModelOutput)

# Triton's default for a graph with a free first axis and no configuration.
DERIVED_MAX_BATCH_SIZE = 4
# Each size is run at load: 2**31 - 1, written for "no limit", would take the machine's memory and hold up other models.
LARGEST_MAX_BATCH_SIZE = 2**16


def read_config(folder: ModelFolder) -> ModelConfig:
    """Read the model's config.pbtxt; an empty configuration if the file is absent.

    Raises:
        ConfigurationError: the file is not a ModelConfig, names another model, or sets an unsupported field.
        FilesUnreadable: the file cannot be read.
    """
    return parse_config(folder, read_optional(folder.path / CONFIG) or b"")


def parse_config(folder: ModelFolder, content: bytes) -> ModelConfig:
    """The configuration in the content of the model's config.pbtxt.

    Raises:
        ConfigurationError: as read_config().
    """
    path = folder.path / CONFIG
    config = ModelConfig()
    try:
        text_format.Parse(content.decode("utf-8-sig"), config)
    except (UnicodeDecodeError, text_format.ParseError) as error:
        raise ConfigurationError(f"{path} cannot be read: {error}") from error
    if config.name and config.name != folder.name:
        raise ConfigurationError(f"{path} names the model {config.name!r}, its folder {folder.name!r}")
    if config.platform not in ("", PLATFORM) or config.backend not in ("", BACKEND):
        raise ConfigurationError(
            f"{path}: this service supports platform {PLATFORM!r}, not {config.platform or config.backend!r}"
        )
    if not 0 <= config.max_batch_size <= LARGEST_MAX_BATCH_SIZE:
        raise ConfigurationError(
            f"{path}: max_batch_size is {config.max_batch_size}, expected 0 to {LARGEST_MAX_BATCH_SIZE}"
        )
    refused = refused_fields(config)
    if refused:
        raise ConfigurationError(f"{path}: this service does not support {', '.join(refused)}; remove it")
    return config


def derives_batching(config: ModelConfig) -> bool:
    """Whether config.pbtxt leaves it to the graph whether the model batches."""
    return not (config.input or config.output or config.max_batch_size)


def complete_spec(
    folder: ModelFolder,
    version: int,
    config: ModelConfig,
    graph: GraphSignature,
    *,
    manifest_labels: tuple[str, ...] | None = None,
    derive_batching: bool = True,
) -> ModelSpec:
    """Complete the configuration from the graph, and check that the two agree.

    A model whose configuration says nothing about batching batches if every first axis is free, unless
    `derive_batching` is false. Outputs that the configuration leaves out are not looked at.

    Raises:
        ConfigurationError: the two contradict each other, or the graph uses an unsupported element type.
        FilesError: the labels do not fit, as with_labels().
    """
    name = folder.name
    names = {output.name for output in config.output}
    served = [output for output in graph.outputs if output.name in names or not names]
    free_first = all(tensor.shape and tensor.shape[0] is None for tensor in (*graph.inputs, *served))
    complete = ModelConfig()
    complete.CopyFrom(config)
    complete.name, complete.platform, complete.backend = name, PLATFORM, BACKEND
    if derives_batching(config) and free_first and derive_batching:
        complete.max_batch_size = DERIVED_MAX_BATCH_SIZE
        if not config.HasField("dynamic_batching"):
            complete.dynamic_batching.CopyFrom(ModelDynamicBatching())
    batches = complete.max_batch_size > 0
    _check_types(graph.inputs, served, batches=config.max_batch_size > 0)
    if batches and not free_first:
        fixed = next(t for t in (*graph.inputs, *served) if not t.shape or t.shape[0] is not None)
        leave_out = "" if fixed in graph.inputs else "leave it out of the outputs in config.pbtxt, "
        raise ConfigurationError(
            f"max_batch_size is {complete.max_batch_size}, but the first axis of {fixed.name!r} is not free: "
            f"its shape is {_show(fixed.shape)}; {leave_out}set max_batch_size to 0 or export with a free batch axis"
        )
    inputs = _match("input", list(config.input), graph.inputs, batches)
    outputs = with_labels(
        _match("output", list(config.output), graph.outputs, batches), folder, complete, manifest_labels
    )
    _write_back(complete, inputs, outputs)
    return ModelSpec(name, version, inputs, outputs, complete.max_batch_size, complete)


def _check_types(inputs: Sequence[GraphTensor], outputs: Sequence[GraphTensor], *, batches: bool) -> None:
    """Refuse a type that no request can carry; for an output, show how config.pbtxt leaves it out.

    `batches` is whether config.pbtxt says so: once it lists outputs, batching is not derived any more.
    """
    for kind, tensors in (("input", inputs), ("output", outputs)):
        for tensor in tensors:
            if tensor.type in BY_ONNX:
                continue
            others = [other for other in outputs if other.type in BY_ONNX]
            advice = f"; supported types: {', '.join(BY_ONNX)}"
            if kind == "output" and others:
                declarations = " ".join(_declaration(other, batches=batches) for other in others)
                advice = (
                    f", which no response can carry; to leave it out, list the others in config.pbtxt: {declarations}"
                )
            raise ConfigurationError(f"{kind} {tensor.name!r} has type {tensor.type}{advice}")


def _declaration(output: GraphTensor, *, batches: bool) -> str:
    """The output as config.pbtxt declares it."""
    dims = _show(output.shape[1 if batches else 0 :])
    return f'output {{ name: "{output.name}" data_type: {BY_ONNX[output.type].config} dims: {dims} }}'


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
    reshape = tuple(declared.reshape.shape) if declared.HasField("reshape") else None
    in_graph = dims if reshape is None else reshape
    compatible = len(in_graph) == len(graph.shape) and all(
        axis in (-1, graph_axis) or (graph_axis == -1 and axis > 0)
        for axis, graph_axis in zip(in_graph, graph.shape, strict=True)
    )
    if not compatible:
        raise ConfigurationError(
            f"{kind} {graph.name!r}: config.pbtxt says {'dims' if reshape is None else 'reshape'} {_show(in_graph)}, "
            f"the graph has {_show(graph.shape)} (both without the batch axis if max_batch_size > 0)"
        )
    shape = tuple(max(axis, graph_axis) for axis, graph_axis in zip(in_graph, graph.shape, strict=True))
    if reshape is None:
        return TensorSpec(graph.name, graph.data_type, shape)
    if min(dims, default=1) < -1 or _fixed_sizes(dims) != _fixed_sizes(reshape):
        raise ConfigurationError(
            f"{kind} {graph.name!r}: dims {_show(dims)} and reshape {_show(reshape)} differ in their number of "
            "elements, which must be equal before, between and after axes of -1"
        )
    # The n-th free axis of the dims is the n-th of the reshape, and the graph may fix it.
    axes = iter([axis for axis, declared_axis in zip(shape, reshape, strict=True) if declared_axis == -1])
    return TensorSpec(
        graph.name, graph.data_type, tuple(next(axes) if axis == -1 else axis for axis in dims), graph_shape=shape
    )


def _fixed_sizes(shape: Sequence[int]) -> list[int]:
    """The number of elements of the axes before, between and after the axes of -1."""
    sizes = [1]
    for axis in shape:
        if axis == -1:
            sizes.append(1)
        else:
            sizes[-1] *= axis
    return sizes


def _write_back(config: ModelConfig, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> None:
    """Write the matched tensors into the configuration that the ModelConfig method returns."""
    inputs_by_name = {tensor.name: tensor for tensor in config.input}
    outputs_by_name = {tensor.name: tensor for tensor in config.output}
    complete = ModelConfig(
        input=[_complete(inputs_by_name.get(spec.name, ModelInput()), spec) for spec in inputs],
        output=[_complete(outputs_by_name.get(spec.name, ModelOutput()), spec) for spec in outputs],
    )
    config.ClearField("input")
    config.ClearField("output")
    config.MergeFrom(complete)


def _complete(declared: Declared, spec: TensorSpec) -> Declared:
    """The declaration, with the name, type and dims of the spec."""
    tensor = type(declared)()
    tensor.CopyFrom(declared)
    tensor.ClearField("dims")
    tensor.MergeFrom(type(declared)(name=spec.name, data_type=spec.data_type.config, dims=spec.shape))
    return tensor


def _show(shape: Sequence[int | None]) -> str:
    return "[" + ", ".join("-1" if axis is None else str(axis) for axis in shape) + "]"
