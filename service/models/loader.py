"""From a version on disk to one that answers: every check that stands between a file and traffic.

Owns the order of them: read the files, compare the hash, open the graph, complete and compare the configuration, prove
the golden answers in every batch size, and only then put a batcher before the engines.
"""

import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from service.batching.batcher import Batcher, BatchingPolicy
from service.batching.predictions import Predictions, predictions_for
from service.batching.queue import QueuePolicy
from service.batching.statistics import Statistics
from service.core.batch_sizes import batch_sizes
from service.core.errors import ConfigurationError, GraphError
from service.core.spec import ModelSpec
from service.models.config import complete_spec, read_config
from service.models.repository import GRAPH, ModelFolder, ReportedMetrics, VersionFiles, read_version
from service.models.verification import Verifier
from service.pb.model_config_pb2 import ModelInstanceGroup, ModelQueuePolicy
from service.runtime.cuda import DEFAULT_GPU_OPTIONS, GpuOptions
from service.runtime.session import Engine

# Of the thread that proves a version while others answer, as of nice(1).
NICENESS = 15
# How far an answer may be from its golden one where TensorRT computes in half precision, whose step at 1 is 1e-3.
FP16_TOLERANCE = 1e-2
# Batches that may wait where the configuration sets no limit.
DEFAULT_QUEUE_BATCHES = 16
MAX_PRIORITY_LEVELS = 100
MAX_INSTANCES = 64


@dataclass(frozen=True)
class EngineOptions:
    """How engines are made: the devices, one engine each unless a model says otherwise, and the threads of each."""

    devices: Sequence[str]
    intra_op_threads: int
    gpu: GpuOptions = DEFAULT_GPU_OPTIONS


@dataclass(frozen=True)
class LoadedModel:
    """A version that answers."""

    spec: ModelSpec
    batcher: Batcher
    statistics: Statistics
    predictions: Predictions | None  # of a model whose classes have labels
    reported: ReportedMetrics  # how it did on the job's test set, as far as that is known
    sha256: str
    verified: bool  # made by our training job: hash and golden answers hold
    batch_max_abs_diff: (
        float | None
    )  # largest difference between a golden answer alone and in company, as measured here
    device: str
    provider: str
    load_seconds: float = field(compare=False)


@dataclass(frozen=True)
class OpenedVersion:
    """A version whose files, graph and configuration agree; nothing has run yet."""

    spec: ModelSpec
    files: VersionFiles
    engines: Sequence[Engine]
    verifier: Verifier
    policy: BatchingPolicy

    def verify(self) -> float | None:
        """Prove every engine. Returns the largest difference between a sample's answers alone and in company, if known.

        Raises:
            LoadError: as Verifier.verify().
        """
        gaps = [self.verifier.verify(engine.run) for engine in self.engines]
        return max((gap for gap in gaps if gap is not None), default=None)


def load(
    folder: ModelFolder, version: int, options: EngineOptions, *, on_broken: Callable[[], None] = lambda: None
) -> LoadedModel:
    """Load a version and prove it. `on_broken` is called should one of its engines break later.

    Raises:
        LoadError: it cannot be served; the message says why.
        engine.DeviceUnavailable: the device could not be had.
    """
    started = time.perf_counter()
    opened = open_version(folder, version, options)
    # On a thread of its own, behind all that answer: what it starts, such as a batcher's threads, would be as patient.
    with ThreadPoolExecutor(1, thread_name_prefix="proof", initializer=_yield_to_others) as patient:
        batch_max_abs_diff = patient.submit(opened.verify).result()
    statistics = Statistics()
    predictions = predictions_for(opened.spec)
    batcher = Batcher(
        opened.engines,
        opened.policy,
        statistics,
        name=folder.name,
        fixed_shapes=all(-1 not in tensor.shape for tensor in opened.spec.inputs),
        predictions=predictions,
        probe=opened.verifier.probe,
        on_broken=on_broken,
    )
    return LoadedModel(
        spec=opened.spec,
        batcher=batcher,
        statistics=statistics,
        predictions=predictions,
        reported=opened.files.manifest.metrics if opened.files.manifest else ReportedMetrics(),
        sha256=opened.files.sha256,
        verified=opened.files.manifest is not None,
        batch_max_abs_diff=batch_max_abs_diff,
        device=",".join(engine.device for engine in opened.engines),
        provider=opened.engines[0].provider,
        load_seconds=time.perf_counter() - started,
    )


def open_version(folder: ModelFolder, version: int, options: EngineOptions) -> OpenedVersion:
    """Read a version, open its graph and hold them against each other.

    Raises:
        LoadError, engine.DeviceUnavailable: as load().
    """
    config = read_config(folder)
    files = read_version(folder, version, config.default_model_filename or GRAPH)
    devices = _places(config.instance_group, options)
    engines = [_open(files, device, options) for device in devices]
    spec = complete_spec(folder, version, config, engines[0])
    for engine in engines:
        engine.select([tensor.name for tensor in spec.outputs])
    limit = max(spec.max_batch_size, 1)
    strict = _is_strict(spec)
    sizes = [limit] if strict else batch_sizes(limit)
    bound = [engine.bind(spec, sizes) for engine in engines]
    return OpenedVersion(
        spec=spec,
        files=files,
        engines=engines,
        verifier=Verifier(
            spec,
            files.golden,
            max(files.golden_tolerance, FP16_TOLERANCE) if options.gpu.fp16 else files.golden_tolerance,
            sizes=sizes,
            strict=strict,
        ),
        policy=_policy(
            spec,
            sizes=sizes if strict or any(bound) else [],
            inline_below_seconds=BatchingPolicy.inline_below_seconds if devices == ["cpu"] else 0.0,
        ),
    )


def _yield_to_others() -> None:
    """Give this thread little of a processor that others want; elsewhere than on Linux this is a process's matter."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)


def _open(files: VersionFiles, device: str, options: EngineOptions) -> Engine:
    try:
        return Engine(
            files.model, device=device, intra_op_threads=options.intra_op_threads, folder=files.folder, gpu=options.gpu
        )
    except Exception as error:  # ONNX Runtime's errors share no narrower base
        if type(error).__module__.startswith("onnxruntime"):
            raise GraphError(f"{files.name} cannot be opened: {error}") from error
        raise


def _places(groups: Sequence[ModelInstanceGroup], options: EngineOptions) -> list[str]:
    """The device of each engine: the runtime's, or what the configuration's instance groups ask for."""
    gpus = [device for device in options.devices if device != "cpu"]
    places: list[str] = []
    for group in groups:
        match group.kind:
            case ModelInstanceGroup.KIND_CPU:
                devices = ["cpu"]
            case ModelInstanceGroup.KIND_GPU if not gpus:
                raise ConfigurationError("instance_group asks for KIND_GPU, but the service runs on the CPU (--device)")
            case ModelInstanceGroup.KIND_MODEL:
                raise ConfigurationError(
                    "instance_group KIND_MODEL is not offered; use KIND_AUTO, KIND_CPU or KIND_GPU"
                )
            case _:
                devices = [f"cuda:{gpu}" for gpu in group.gpus] if gpus and group.gpus else list(options.devices)
        if set(devices) - {"cpu", *options.devices}:
            raise ConfigurationError(
                f"instance_group asks for {devices}, the service has {list(options.devices)} (--device)"
            )
        places += devices * max(group.count, 1)
    if len(places) > MAX_INSTANCES:
        raise ConfigurationError(f"instance_group asks for {len(places)} instances, at most {MAX_INSTANCES} are made")
    return places or list(options.devices)


def _is_strict(spec: ModelSpec) -> bool:
    """Whether every batch is to have the same size, so that an answer has the same bits alone and in company."""
    text = spec.config.parameters["strict"].string_value if "strict" in spec.config.parameters else "false"
    if text not in ("true", "false"):
        raise ConfigurationError(f'the parameter strict expected "true" or "false", got {text!r}')
    if text == "true" and not spec.batches:
        raise ConfigurationError(
            "the parameter strict means nothing for a model that does not batch; set max_batch_size"
        )
    return text == "true"


def _policy(spec: ModelSpec, *, sizes: Sequence[int], inline_below_seconds: float) -> BatchingPolicy:
    batching = spec.config.dynamic_batching  # all zeros where there is none
    # As in Triton: a model whose configuration does not ask for batching computes each request alone.
    limit = spec.max_batch_size if spec.batches and spec.config.HasField("dynamic_batching") else 1
    levels = batching.priority_levels
    if levels > MAX_PRIORITY_LEVELS:
        raise ConfigurationError(f"priority_levels is {levels}, at most {MAX_PRIORITY_LEVELS} are offered")
    if levels and not 1 <= batching.default_priority_level <= levels:
        raise ConfigurationError(
            f"default_priority_level expected 1 to {levels}, got {batching.default_priority_level}"
        )
    odd = sorted(set(batching.priority_queue_policy) - set(range(1, levels + 1)))
    if odd:
        raise ConfigurationError(f"priority_queue_policy names level {odd[0]}, but priority_levels is {levels}")
    wrong = [size for size in batching.preferred_batch_size if not 1 <= size <= spec.max_batch_size]
    if wrong:
        raise ConfigurationError(
            f"preferred_batch_size expected 1 to max_batch_size {spec.max_batch_size}, got {wrong[0]}"
        )
    default = batching.default_queue_policy
    policies = [batching.priority_queue_policy.get(level, default) for level in range(1, max(levels, 1) + 1)]
    rows = max(spec.max_batch_size, 1)
    return BatchingPolicy(
        max_batch_size=limit,
        levels=[_queue_policy(policy, rows) for policy in policies],
        default_level=max(batching.default_priority_level, 1) - 1 if levels else 0,
        max_delay=batching.max_queue_delay_microseconds * 1e-6,
        preferred=frozenset(batching.preferred_batch_size),
        preserve_ordering=batching.preserve_ordering,
        sizes=sizes,
        inline_below_seconds=inline_below_seconds,
    )


def _queue_policy(policy: ModelQueuePolicy, batch: int) -> QueuePolicy:
    return QueuePolicy(
        # Never less than a batch: a request of that size must be able to wait.
        max_rows=max(batch, policy.max_queue_size or DEFAULT_QUEUE_BATCHES * batch),
        timeout=policy.default_timeout_microseconds * 1e-6,
        timeout_override=policy.allow_timeout_override,
        delay_late=policy.timeout_action == ModelQueuePolicy.DELAY,
    )
