"""The versions of a model that its configuration selects: the version policy, and the labels stable and canary.

Not here: what a request's label means (routing.py), which versions are loaded (reconciler.py).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from service.models.repository.config import read_config
from service.models.repository.routing import CANARY, Routing, read_routing
from service.models.repository.version_files import ModelFolder
from service.pb.model_config_pb2 import ModelConfig


@dataclass(frozen=True)
class Selection:
    """The versions that a configuration selects, in order of preference, and how many to load besides the canary."""

    config: ModelConfig
    candidates: list[int]
    count: int
    routing: Routing

    def wants(self, version: int, loaded: Iterable[int]) -> bool:
        """Whether to load the version, given the versions that are loaded."""
        labels = self.routing.labels
        return version in labels.values() or len(set(loaded) - {labels.get(CANARY)}) < self.count


def select(folder: ModelFolder) -> Selection:
    """The versions that the model's config.pbtxt selects.

    Raises:
        LoadError: the configuration cannot be read or is refused.
    """
    return selection_of(read_config(folder), folder.versions)


def selection_of(config: ModelConfig, versions: Sequence[int]) -> Selection:
    """The versions that a configuration selects, of those on disk.

    With `latest` every version is a candidate, newest first: the next older version replaces a refused one.

    Raises:
        ConfigurationError: a label or its percentage is invalid.
    """
    routing = read_routing(config)
    labelled = set(routing.labels.values())
    newest_first = sorted(versions, reverse=True)
    policy = config.version_policy
    match policy.WhichOneof("policy_choice"):
        case "all":
            selected, count = newest_first, len(newest_first)
        case "specific":
            selected, count = list(policy.specific.versions), len(policy.specific.versions)
        case _:
            selected, count = newest_first, policy.latest.num_versions or 1
    rest = sorted(set(selected) - labelled, reverse=True)
    return Selection(config, sorted(labelled, reverse=True) + rest, count, routing)
