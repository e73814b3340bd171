"""A version that should answer, and whether it must be loaded: its files compared with those of the last look.

Not here: the versions that should answer (repository/selection.py), what identifies a version's files
(repository/fingerprint.py), what follows (reconciler.py).
"""

from dataclasses import dataclass, replace

from service.core.load_errors import LoadError
from service.models.loader import LoadedModel
from service.models.registry import ModelEntry, State, VersionStatus
from service.models.repository.config import read_config
from service.models.repository.fingerprint import Fingerprint, fingerprint
from service.models.repository.version_files import ModelFolder
from service.pb.model_config_pb2 import ModelConfig


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


def candidate_for(folder: ModelFolder, version: int, config: ModelConfig, entry: ModelEntry) -> Candidate:
    """Compare the version's files with those of the last look."""
    before = entry.statuses.get(version)
    hashed = [known.files for known in (before.loaded, before.refused) if known] if before else []
    current = fingerprint(folder, version, config, {name: file for files in hashed for name, file in files.items()})
    serving = entry.versions.get(version) if version in folder.versions else None
    return Candidate(folder, version, current, serving, before)
