"""Devices and batching policy of a version, from its configuration and the service's options.

Not here: reading and completing the configuration (repository/config.py), refusing its values
(repository/engine_fields.py), the rules of batching (batching/).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from service.batching.queue import QueuePolicy
from service.batching.scheduler import BatchingPolicy
from service.core.load_errors import ConfigurationError
from service.core.spec import ModelSpec
from service.models.repository.engine_fields import check_instances
from service.pb.model_config_pb2 import ModelInstanceGroup, ModelQueuePolicy
from service.runtime.cuda import DEFAULT_GPU_OPTIONS, GpuOptions

# If the configuration sets no limit, a queue is full with this many batches of rows and this many requests: an ordinary
# client with hundreds of calls in flight does not meet it.
DEFAULT_QUEUE_BATCHES, DEFAULT_QUEUE_REQUESTS = 16, 1024


@dataclass(frozen=True)
class EngineOptions:
    """Devices and threads of engines. A model gets one engine a device unless its configuration has instance groups."""

    devices: Sequence[str]
    intra_op_threads: int
    gpu: GpuOptions = DEFAULT_GPU_OPTIONS


def engine_devices(groups: Sequence[ModelInstanceGroup], options: EngineOptions) -> list[str]:
    """The device of each engine, from the configuration's instance groups; the service's devices if there are none.

    Raises:
        ConfigurationError: a group asks for a device that the service does not use, or for too many instances.
    """
    gpus = [device for device in options.devices if device != "cpu"]
    chosen: list[str] = []
    for group in groups:
        match group.kind:
            case ModelInstanceGroup.KIND_CPU:
                devices = ["cpu"]
            case ModelInstanceGroup.KIND_GPU if not gpus:
                raise ConfigurationError("instance_group asks for KIND_GPU, but the service runs on the CPU (--device)")
            case _:
                devices = [f"cuda:{gpu}" for gpu in group.gpus] if gpus and group.gpus else list(options.devices)
        if set(devices) - {"cpu", *options.devices}:
            raise ConfigurationError(
                f"instance_group asks for {devices}, but the service has {list(options.devices)} (--device)"
            )
        chosen += devices * max(group.count, 1)
    check_instances(len(chosen))
    return chosen or list(options.devices)


def batching_policy(spec: ModelSpec, *, sizes: Sequence[int], inline_below_seconds: float) -> BatchingPolicy:
    """The batching policy that the configuration describes, which check_batching() has accepted."""
    batching = spec.config.dynamic_batching  # all zeros if it is absent
    # As in Triton: without dynamic_batching each request runs alone.
    max_batch_size = spec.max_batch_size if spec.batches and spec.config.HasField("dynamic_batching") else 1
    levels = batching.priority_levels
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
