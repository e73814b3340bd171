"""Loads one model version: every check between the files and the first request.

Owns the order: read the files and compare the hash, open the graph, complete the configuration and compare it with the
graph, verify the golden answers in every batch size or compare rows alone and in batches, then start a batcher. It also
translates the configuration into devices, batch sizes and batching policy. Not here: the checks themselves
(repository.py, graph_files.py, checksums.py, config.py, opened_version.py), the choice of versions (reconciler.py).
"""

import functools
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import structlog

from service.batching.batcher import Batcher
from service.batching.predictions import Predictions, predictions_for
from service.batching.queue import QueuePolicy
from service.batching.scheduler import BatchingPolicy
from service.batching.statistics import Statistics
from service.core.batch_sizes import batch_sizes
from service.core.errors import ConfigurationError, FilesError, GraphError
from service.core.spec import ModelSpec
from service.models.checksums import check_repository_agents
from service.models.config import complete_spec, derives_batching, read_config
from service.models.graph_files import open_weights
from service.models.opened_version import OpenedVersion
from service.models.repository import GRAPH, ModelFolder, ReportedMetrics, VersionFiles, read_version
from service.models.unsupported import ignored_fields
from service.models.verification import Verifier
from service.pb.model_config_pb2 import ModelConfig, ModelInstanceGroup, ModelQueuePolicy
from service.runtime.cuda import DEFAULT_GPU_OPTIONS, GpuOptions
from service.runtime.session import Engine

log = structlog.get_logger(__name__)

# nice(1) value of the thread that verifies a version while other versions serve.
NICENESS = 15
# Tolerance of golden answers if TensorRT computes in half precision, whose spacing at 1 is 1e-3.
FP16_TOLERANCE = 1e-2
# If the configuration sets no limit, a queue is full with this many batches of rows and this many requests: an ordinary
# client with hundreds of calls in flight does not meet it.
DEFAULT_QUEUE_BATCHES, DEFAULT_QUEUE_REQUESTS = 16, 1024
MAX_PRIORITY_LEVELS = 100
MAX_INSTANCES = 64


@dataclass(frozen=True)
class EngineOptions:
    """Devices and threads of engines. A model gets one engine a device unless its configuration has instance groups."""

    devices: Sequence[str]
    intra_op_threads: int
    gpu: GpuOptions = DEFAULT_GPU_OPTIONS


@dataclass(frozen=True)
class LoadedModel:
    """A version that is ready for requests."""

    spec: ModelSpec
    batcher: Batcher
    statistics: Statistics
    predictions: Predictions | None  # None if the classes have no labels
    reported: ReportedMetrics  # test-set metrics from the manifest; empty without one
    sha256: str
    verified: bool  # it has a manifest, and its hash and golden answers were checked
    batch_max_abs_diff: float | None  # as Verifier.verify() returns it
    device: str  # of every engine, joined with commas
    provider: str
    load_seconds: float = field(compare=False)
    warnings: tuple[str, ...] = ()  # what an operator may expect of the version and does not get


def load(
    folder: ModelFolder,
    version: int,
    options: EngineOptions,
    *,
    require_manifest: bool = False,
    on_broken: Callable[[], None] = lambda: None,
) -> LoadedModel:
    """Load and verify a version. `on_broken` is called if one of its engines breaks later.

    Raises:
        LoadError: the version cannot be served; the message says why.
    """
    started = time.perf_counter()
    opened = open_version(folder, version, options, require_manifest=require_manifest)
    # On a separate thread: threads started by a low-priority thread, such as the batcher's, inherit its priority.
    with ThreadPoolExecutor(1, thread_name_prefix="verify", initializer=_lower_priority) as executor:
        verified = executor.submit(opened.verify).result()
    for warning in verified.warnings:
        log.warning("model warning", model=folder.name, version=version, reason=warning)
    statistics = Statistics()
    predictions = predictions_for(verified.spec)
    batcher = Batcher(
        verified.engines,
        verified.policy,
        statistics,
        name=folder.name,
        fixed_shapes=all(-1 not in tensor.shape for tensor in verified.spec.inputs),
        predictions=predictions,
        probe=verified.verifier.probe,
        on_broken=on_broken,
    )
    return LoadedModel(
        spec=verified.spec,
        batcher=batcher,
        statistics=statistics,
        predictions=predictions,
        reported=verified.files.manifest.metrics if verified.files.manifest else ReportedMetrics(),
        sha256=verified.files.sha256,
        verified=verified.files.manifest is not None,
        batch_max_abs_diff=verified.batch_max_abs_diff,
        device=",".join(engine.device for engine in verified.engines),
        provider=verified.engines[0].provider,
        load_seconds=time.perf_counter() - started,
        warnings=verified.warnings,
    )


def open_version(
    folder: ModelFolder, version: int, options: EngineOptions, *, require_manifest: bool = False
) -> OpenedVersion:
    """Read a version's files, open its graph on every device, and complete the configuration from the graph.

    Raises:
        LoadError: as load().
    """
    config = read_config(folder)
    check_repository_agents(folder, version, config)
    files = read_version(folder, version, config.default_model_filename or GRAPH)
    if require_manifest and files.manifest is None:
        raise FilesError(
            f"{folder.version_path(version)} has no manifest.json, which --require-manifest asks for; publish the "
            "version with the training job, or start the service without the flag"
        )
    devices = _engine_devices(config.instance_group, options)
    engines = _open_engines(folder, version, files, devices, options)
    complete = functools.partial(complete_spec, folder, version, config, engines[0], manifest_labels=files.labels)
    spec = complete()
    unbatched_spec = spec
    if spec.batches and derives_batching(config):
        unbatched_spec = complete(derive_batching=False)
    for engine in engines:
        engine.serve(spec)
    batch_rows = max(spec.max_batch_size, 1)
    strict = _is_strict(spec)
    sizes = [batch_rows] if strict else batch_sizes(batch_rows)
    bound = [engine.bind(spec, sizes) for engine in engines]
    inline_below_seconds = BatchingPolicy.inline_below_seconds if devices == ["cpu"] else 0.0
    tolerance = max(files.golden_tolerance, FP16_TOLERANCE) if options.gpu.fp16 else files.golden_tolerance
    unbatched_policy = _policy(unbatched_spec, sizes=[], inline_below_seconds=inline_below_seconds)
    return OpenedVersion(
        spec=spec,
        files=files,
        engines=engines,
        verifier=Verifier(spec, files.golden, tolerance, sizes=sizes, strict=strict),
        policy=_policy(spec, sizes=sizes if strict or any(bound) else [], inline_below_seconds=inline_below_seconds),
        warnings=_warnings(config),
        unbatched_spec=unbatched_spec,
        unbatched_policy=replace(unbatched_policy, max_batch_size=1, preferred=frozenset()),
    )


def _warnings(config: ModelConfig) -> tuple[str, ...]:
    ignored = ignored_fields(config)
    return (f"config.pbtxt sets {', '.join(ignored)}, which this service ignores",) if ignored else ()


def _lower_priority() -> None:
    """Lower this thread's priority below that of the serving threads; only Linux has a nice value per thread."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)


def _open_engines(
    folder: ModelFolder, version: int, files: VersionFiles, devices: Sequence[str], options: EngineOptions
) -> list[Engine]:
    """Open the graph on every device."""
    given = [path.resolve() for path in (folder.path.parent, folder.path, folder.version_path(version))]
    weights = open_weights(files.folder / files.name, files.model, given)
    try:
        return [
            Engine(
                files.model,
                device=device,
                intra_op_threads=options.intra_op_threads,
                folder=files.folder,
                weights=weights,
                gpu=options.gpu,
            )
            for device in devices
        ]
    except Exception as error:  # ONNX Runtime's errors have no common base class
        if type(error).__module__.startswith("onnxruntime"):
            raise GraphError(f"{files.name} cannot be opened: {error}") from error
        raise


def _engine_devices(groups: Sequence[ModelInstanceGroup], options: EngineOptions) -> list[str]:
    """The device of each engine, from the configuration's instance groups; the service's devices if there are none."""
    gpus = [device for device in options.devices if device != "cpu"]
    engine_devices: list[str] = []
    for group in groups:
        match group.kind:
            case ModelInstanceGroup.KIND_CPU:
                devices = ["cpu"]
            case ModelInstanceGroup.KIND_GPU if not gpus:
                raise ConfigurationError("instance_group asks for KIND_GPU, but the service runs on the CPU (--device)")
            case ModelInstanceGroup.KIND_MODEL:
                raise ConfigurationError(
                    "instance_group: KIND_MODEL is not supported; use KIND_AUTO, KIND_CPU or KIND_GPU"
                )
            case _:
                devices = [f"cuda:{gpu}" for gpu in group.gpus] if gpus and group.gpus else list(options.devices)
        if set(devices) - {"cpu", *options.devices}:
            raise ConfigurationError(
                f"instance_group asks for {devices}, but the service has {list(options.devices)} (--device)"
            )
        engine_devices += devices * max(group.count, 1)
    if len(engine_devices) > MAX_INSTANCES:
        raise ConfigurationError(
            f"instance_group asks for {len(engine_devices)} instances, the limit is {MAX_INSTANCES}"
        )
    return engine_devices or list(options.devices)


def _is_strict(spec: ModelSpec) -> bool:
    """Whether every batch is padded to one size, so that an answer has the same bits alone and in a batch."""
    text = spec.config.parameters["strict"].string_value if "strict" in spec.config.parameters else "false"
    if text not in ("true", "false"):
        raise ConfigurationError(f'the parameter strict expected "true" or "false", got {text!r}')
    if text == "true" and not spec.batches:
        raise ConfigurationError("the parameter strict needs a model that batches; set max_batch_size")
    return text == "true"


def _policy(spec: ModelSpec, *, sizes: Sequence[int], inline_below_seconds: float) -> BatchingPolicy:
    """The batching policy that the configuration describes."""
    batching = spec.config.dynamic_batching  # all zeros if it is absent
    # As in Triton: without dynamic_batching each request runs alone.
    max_batch_size = spec.max_batch_size if spec.batches and spec.config.HasField("dynamic_batching") else 1
    levels = batching.priority_levels
    if levels > MAX_PRIORITY_LEVELS:
        raise ConfigurationError(f"priority_levels is {levels}, the limit is {MAX_PRIORITY_LEVELS}")
    if levels and not 1 <= batching.default_priority_level <= levels:
        raise ConfigurationError(
            f"default_priority_level expected 1 to {levels}, got {batching.default_priority_level}"
        )
    unknown = sorted(set(batching.priority_queue_policy) - set(range(1, levels + 1)))
    if unknown:
        raise ConfigurationError(f"priority_queue_policy names level {unknown[0]}, but priority_levels is {levels}")
    invalid = [size for size in batching.preferred_batch_size if not 1 <= size <= spec.max_batch_size]
    if invalid:
        raise ConfigurationError(
            f"preferred_batch_size expected 1 to max_batch_size {spec.max_batch_size}, got {invalid[0]}"
        )
    default = batching.default_queue_policy
    policies = [batching.priority_queue_policy.get(level, default) for level in range(1, max(levels, 1) + 1)]
    batch_rows = max(spec.max_batch_size, 1)
    return BatchingPolicy(
        max_batch_size=max_batch_size,
        levels=[_queue_policy(policy, batch_rows) for policy in policies],
        default_level=max(batching.default_priority_level, 1) - 1 if levels else 0,
        max_delay=batching.max_queue_delay_microseconds * 1e-6,
        preferred=frozenset(batching.preferred_batch_size),
        preserve_ordering=batching.preserve_ordering,
        sizes=sizes,
        inline_below_seconds=inline_below_seconds,
    )


def _queue_policy(policy: ModelQueuePolicy, batch_rows: int) -> QueuePolicy:
    if policy.max_queue_size:
        rows, requests = max(policy.max_queue_size, batch_rows), 0  # at least one batch: a whole request must fit
    else:
        rows, requests = max(DEFAULT_QUEUE_BATCHES * batch_rows, DEFAULT_QUEUE_REQUESTS), DEFAULT_QUEUE_REQUESTS
    return QueuePolicy(
        max_rows=rows,
        min_requests=requests,
        timeout=policy.default_timeout_microseconds * 1e-6,
        timeout_override=policy.allow_timeout_override,
        delay_late=policy.timeout_action == ModelQueuePolicy.DELAY,
    )
