"""A version whose files, graph and configuration agree, and the decision whether its rows may share a batch.

Not here: opening it (loader.py), the checks themselves (verifier.py, row_independence.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from service.batching.scheduler import BatchingPolicy
from service.core.load_errors import ConfigurationError, FilesError, GraphError
from service.core.spec import ModelSpec
from service.models.repository.version_files import VersionFiles
from service.models.verification.golden_pictures import takes_images, verify_pictures
from service.models.verification.row_independence import EXACT, IN_HALF_PRECISION, ON_CPU, ON_GPU, Finding, compare_rows
from service.models.verification.verifier import Verifier
from service.pictures.fit import Fit
from service.runtime.session import Engine

NOT_BATCHED = "not batched, every request runs alone"


@dataclass(frozen=True)
class OpenedVersion:
    """A version before and after its verification. `warnings` say what an operator may expect and does not get."""

    spec: ModelSpec
    files: VersionFiles
    engines: Sequence[Engine]
    verifier: Verifier
    policy: BatchingPolicy
    warnings: tuple[str, ...]
    # What to serve instead if rows must not share a batch. The spec is another one if config.pbtxt asks for no batches.
    unbatched_spec: ModelSpec
    unbatched_policy: BatchingPolicy
    fit: Fit | None = None  # how pictures become images of the model; None if the version does not record it
    batch_max_abs_diff: float | None = None  # of the golden answers, as Verifier.verify() returns it
    pictures_verified: int = 0  # golden pictures whose answers hold

    def verify(self) -> "OpenedVersion":
        """Verify every engine. Returns the version as it can be served: without batches if its rows need that.

        Raises:
            LoadError: as Verifier.verify(), the configuration has a guarantee that needs independent rows, or the
                largest batch does not fit into memory.
        """
        try:
            return self._verify()._verify_pictures()
        except MemoryError as error:
            rows = max(self.verifier.sizes)
            raise GraphError(
                f"a batch of {rows} rows does not fit into memory: {error}; lower max_batch_size"
            ) from error

    def _verify(self) -> "OpenedVersion":
        batches = self.policy.max_batch_size > 1 or bool(self.policy.sizes)
        if batches and not self.verifier.golden:
            return self._check_rows()
        diffs = [self.verifier.verify(engine.run) for engine in self.engines]
        verified = replace(self, batch_max_abs_diff=max((diff for diff in diffs if diff is not None), default=None))
        return verified._check_rows() if batches and not self.verifier.samples_differ else verified

    def _verify_pictures(self) -> "OpenedVersion":
        pictures = self.files.pictures
        if pictures is None or not takes_images(self.spec):
            return self
        if self.fit is None:
            raise FilesError("golden.npz has golden pictures, but the version does not record a fit; publish it again")
        # Half precision differs as much more here as in the golden samples.
        tolerance = pictures.tolerance + self.verifier.tolerance - self.files.golden_tolerance
        for engine in self.engines:
            verify_pictures(
                replace(pictures, tolerance=tolerance), self.spec, self.fit, engine.run, rows=self.verifier.sizes[0]
            )
        return replace(self, pictures_verified=len(pictures.files))

    def _check_rows(self) -> "OpenedVersion":
        """Compare rows alone and in batches, in every batch size.

        What cannot be compared is batched only if config.pbtxt asks for it, for the operator may know what the graph
        does not tell.
        """
        findings = [self._compare_rows(engine) for engine in self.engines]
        for finding in findings:
            if finding.dependent:
                return self._unbatched(finding.dependent)
        for finding in findings:
            if finding.unknown:
                return self._without_comparison(f"whether rows are independent is unknown: {finding.unknown}")
        return self

    def _compare_rows(self, engine: Engine) -> Finding:
        tolerance = ON_CPU if engine.device == "cpu" else IN_HALF_PRECISION if engine.half_precision else ON_GPU
        strict = self.verifier.strict
        return compare_rows(
            self.spec, engine.run, self.verifier.sizes, tolerance=EXACT if strict else tolerance, padded=strict
        )

    def _without_comparison(self, reason: str) -> "OpenedVersion":
        for engine in self.engines:
            self.verifier.verify(engine.run)
        if self.spec is not self.unbatched_spec:
            return self._unbatched(f"{reason}; if they are, set max_batch_size and dynamic_batching in config.pbtxt")
        return replace(self, warnings=(*self.warnings, f"batched, as config.pbtxt says, but {reason}"))

    def _unbatched(self, reason: str) -> "OpenedVersion":
        """The version without batches and without padding."""
        if self.verifier.strict:
            raise ConfigurationError(
                f"the parameter strict requires the same bits alone and in a batch, but {reason}; remove the parameter"
            )
        for engine in self.engines:
            engine.unbind()
            engine.serve(self.unbatched_spec)
        return replace(
            self,
            spec=self.unbatched_spec,
            verifier=replace(self.verifier, spec=self.unbatched_spec, sizes=[1]),
            policy=self.unbatched_policy,
            warnings=(*self.warnings, f"{NOT_BATCHED}: {reason}"),
        )
