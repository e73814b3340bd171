"""Fields of config.pbtxt that engines and batches follow: values that contradict each other are refused here.

Not here: fields that the service does not act on (unsupported.py), tensors and max_batch_size (config.py), devices and
the batching policy that follow (models/engine_settings.py).
"""

from service.core.load_errors import ConfigurationError
from service.core.spec import ModelSpec
from service.pb.model_config_pb2 import ModelConfig, ModelInstanceGroup

MAX_PRIORITY_LEVELS = 100
MAX_INSTANCES = 64


def check_instance_groups(config: ModelConfig) -> None:
    """Check the instance groups, as far as they can be without the service's devices.

    Raises:
        ConfigurationError: a kind that the service does not have, or too many instances.
    """
    groups = config.instance_group
    if any(group.kind == ModelInstanceGroup.KIND_MODEL for group in groups):
        raise ConfigurationError("instance_group: KIND_MODEL is not supported; use KIND_AUTO, KIND_CPU or KIND_GPU")
    check_instances(sum(max(group.count, 1) for group in groups))


def check_instances(count: int) -> None:
    """Refuse more engines than a version may have.

    Raises:
        ConfigurationError: there are too many.
    """
    if count > MAX_INSTANCES:
        raise ConfigurationError(f"instance_group asks for {count} instances, the limit is {MAX_INSTANCES}")


def is_strict(spec: ModelSpec) -> bool:
    """Whether every batch is padded to one size, so that an answer has the same bits alone and in a batch.

    Raises:
        ConfigurationError: the parameter `strict` is invalid, or the model does not batch.
    """
    text = spec.config.parameters["strict"].string_value if "strict" in spec.config.parameters else "false"
    if text not in ("true", "false"):
        raise ConfigurationError(f'the parameter strict expected "true" or "false", got {text!r}')
    if text == "true" and not spec.batches:
        raise ConfigurationError("the parameter strict needs a model that batches; set max_batch_size")
    return text == "true"


def check_batching(spec: ModelSpec) -> None:
    """Check the fields of dynamic_batching and the parameter `strict`.

    Raises:
        ConfigurationError: one is invalid; the message names it, what was expected and what came.
    """
    is_strict(spec)
    batching = spec.config.dynamic_batching  # all zeros if it is absent
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
