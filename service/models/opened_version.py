"""A version whose files, graph and configuration agree.

Not here: opening it (loader.py), the checks of its answers (verification.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from service.batching.batcher import BatchingPolicy
from service.core.spec import ModelSpec
from service.models.repository import VersionFiles
from service.models.verification import Verifier
from service.runtime.session import Engine


@dataclass(frozen=True)
class OpenedVersion:
    """A version before and after its verification. `warnings` say what an operator may expect and does not get."""

    spec: ModelSpec
    files: VersionFiles
    engines: Sequence[Engine]
    verifier: Verifier
    policy: BatchingPolicy
    warnings: tuple[str, ...]
    batch_max_abs_diff: float | None = None  # of the golden answers, as Verifier.verify() returns it

    def verify(self) -> "OpenedVersion":
        """Verify every engine. Returns the version with what was measured.

        Raises:
            LoadError: as Verifier.verify().
        """
        diffs = [self.verifier.verify(engine.run) for engine in self.engines]
        return replace(self, batch_max_abs_diff=max((diff for diff in diffs if diff is not None), default=None))
