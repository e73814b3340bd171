"""Selects the versions of a model that should answer, and knows which of them must be loaded.

Owns the version policy, and the comparison of a version's files with those that were loaded or refused before. Not
here: the labels (routing.py), the fingerprint (repository/), what follows from a selection (reconciler.py).
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from service.core.load_errors import LoadError
from service.models.loader import LoadedModel
from service.models.registry import ModelEntry, State, VersionStatus
from service.models.repository.config import read_config
from service.models.repository.fingerprint import Fingerprint, fingerprint
from service.models.repository.version_files import ModelFolder
from service.models.routing import CANARY, Routing, read_routing
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


@dataclass(frozen=True)
class Candidate:
    """A version that should answer: its files now, and from the last look the version that answers and its status."""

    folder: ModelFolder
    version: int
    current: Fingerprint
    serving: LoadedModel | None  # None also if its folder was removed
    before: VersionStatus | None

    def settled(self) -> VersionStatus | None:
        """The status if the files were loaded or refused before; None if they must be loaded."""
        before = self.before
        if before and self.serving and before.loaded and before.loaded.digest == self.current.digest:
            return VersionStatus(before.name, before.version, State.READY, loaded=self.current)
        if before and before.refused and before.refused.digest == self.current.digest and not before.retry:
            return replace(before, refused=self.current)
        return None

    def loaded(self) -> Fingerprint | None:
        """The fingerprint of the files after they were loaded; None if they changed meanwhile."""
        try:
            after = fingerprint(self.folder, self.version, read_config(self.folder), self.current.files)
        except LoadError:
            return None
        return after if after.digest == self.current.digest else None


def select(folder: ModelFolder) -> Selection:
    """The versions that the model's configuration selects.

    With `latest` every version is a candidate, newest first: the next older version replaces a refused one.

    Raises:
        LoadError: the configuration cannot be read or is refused.
    """
    config = read_config(folder)
    routing = read_routing(config)
    labelled = set(routing.labels.values())
    newest_first = list(folder.versions)
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


def candidate_for(folder: ModelFolder, version: int, config: ModelConfig, entry: ModelEntry) -> Candidate:
    """Compare the version's files with those of the last look."""
    before = entry.statuses.get(version)
    hashed = [known.files for known in (before.loaded, before.refused) if known] if before else []
    current = fingerprint(folder, version, config, {name: file for files in hashed for name, file in files.items()})
    serving = entry.versions.get(version) if version in folder.versions else None
    return Candidate(folder, version, current, serving, before)
