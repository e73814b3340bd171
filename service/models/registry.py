"""The loaded model versions: which one answers a request, the state of every version, and whether the server is ready.

Owns look-ups by name, version and label, and the rule for ready. All of it is one frozen Snapshot, which the reconciler
replaces by one assignment: a reader that needs several facts takes `registry.snapshot` once, and reads need no lock.
Not here: changes on disk (reconciler.py), loading (loader.py), the canary's share (repository/routing.py).
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cached_property
from pathlib import Path

from service.core.errors import NotFound, NotReady
from service.core.texts import bounded, listed, quoted
from service.models.loader import LoadedModel
from service.models.repository.fingerprint import Fingerprint
from service.models.repository.routing import CANARY, NO_ROUTING, STABLE, Routing
from service.models.repository.version_files import printable_name

# Reasons: of a version that an operator unloaded; of a server that has not looked at its repository yet.
UNLOADED, STILL_LOADING = "unloaded", "models are still loading"
# The code of a version with a broken engine.
BROKEN = "engine"
# The names that a text lists at most. The bytes of the reason for being unready, and in it of one version's reason.
MAX_LISTED, MAX_REASON_BYTES, MAX_VERSION_REASON_BYTES = 3, 1024, 256


class State(StrEnum):
    """The state of a version, as RepositoryIndex names it."""

    LOADING = "LOADING"
    READY = "READY"
    UNAVAILABLE = "UNAVAILABLE"
    UNLOADING = "UNLOADING"


@dataclass(frozen=True)
class VersionStatus:
    """The state of one version; `version` 0 stands for the model as a whole.

    A version whose files became invalid after it was loaded is READY, with the code and reason of the refusal.
    """

    name: str
    version: int
    state: State
    reason: str = ""
    code: str = ""  # of the LoadError that refused the version's files; "" if none did
    loaded: Fingerprint | None = (
        None  # of the files that were loaded; None, so that they are loaded again, if they changed meanwhile
    )
    refused: Fingerprint | None = None  # of the files that were refused
    retry: bool = False  # whether to load the refused files again at the next look


Routes = Mapping[str, LoadedModel]  # by version and by label; "" is the default
Statuses = Mapping[int, VersionStatus]  # by version


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """One model: the versions that answer its requests, and the states of all its versions."""

    statuses: Statuses
    routes: Routes = field(default_factory=dict)  # empty while no version is loaded
    routing: Routing = NO_ROUTING
    unloaded: bool = False  # by an operator

    @property
    def versions(self) -> dict[int, LoadedModel]:
        """The loaded versions, by number."""
        return {model.spec.version: model for version, model in self.routes.items() if version.isdigit()}

    @property
    def serves(self) -> bool:
        """Whether requests without a version are answered."""
        return bool(self.routes) and not self.routes[""].batcher.broken


@dataclass(frozen=True)
class Snapshot:
    """The registry at one moment."""

    repository: str  # its path, for messages
    entries: Mapping[str, ModelEntry] = field(default_factory=dict)  # by model
    problem: str = STILL_LOADING  # why the repository as a whole cannot be served; "" if it can

    def get(self, name: str, version: str = "", key: str | None = None) -> LoadedModel:
        """The version with this number or label; for "" the stable version, or the newest one if none has that label.

        With a `key`, a request without a version may go to the canary instead, as repository/routing.py decides.

        Raises:
            NotFound: the model or version is unknown.
            NotReady: the version is known, but cannot answer now.
        """
        try:
            entry = self.entries[name]
            if key is None or version or CANARY not in entry.routes:
                return entry.routes[version]
            return entry.routes[CANARY if entry.routing.takes_canary(name, key) else ""]
        except KeyError:
            raise self._lookup_error(name, version) from None

    def models(self) -> list[LoadedModel]:
        """Every loaded version."""
        return [model for entry in self.entries.values() for model in entry.versions.values()]

    @cached_property
    def serves_one_version(self) -> bool:
        """Whether all calls go to one loaded version."""
        return len(self.models()) == 1

    def versions(self, name: str) -> dict[int, LoadedModel]:
        """The loaded versions of one model, by number."""
        return self.entries[name].versions if name in self.entries else {}

    def serving_models(self) -> set[str]:
        """The names of the models that answer requests without a version."""
        return {name for name, entry in self.entries.items() if entry.serves}

    def index(self) -> list[VersionStatus]:
        """The state of every version that is loaded or should be, sorted by name and version."""
        return [status for name in sorted(self.entries) for status in self._states(name)]

    def unready_reason(self, *, strict: bool = False) -> str:
        """Why the server is not ready, in at most MAX_REASON_BYTES; "" if it is.

        It is ready once the repository was scanned, while a model answers and no engine is broken. What was loaded
        answers until an operator removes or replaces it, so a refused model takes no other model out of service.
        With `strict` every model that no operator unloaded must answer.
        """
        if self.problem:
            return bounded(self.problem, MAX_REASON_BYTES)
        if not self.entries:
            hint = "run the training job (in Docker Compose: docker compose run --rm training)"
            return bounded(f"the repository {self.repository} holds no models: {hint}", MAX_REASON_BYTES)
        serving = self.serving_models()
        silent = [name for name, entry in self.entries.items() if name not in serving and not entry.unloaded]
        if not serving:
            return self._explain("no model answers", silent) if silent else "all models were unloaded"
        broken = sorted({model.spec.name for model in self.models() if model.batcher.broken})
        if broken:
            return self._explain("an engine is broken", broken)
        return self._explain("a model does not answer", silent) if strict and silent else ""

    def _explain(self, what: str, names: Collection[str]) -> str:
        """The text with the reasons of these models."""
        shown = sorted(names)[:MAX_LISTED]
        reasons = [
            f"{name} {status.version or ''}: {bounded(status.reason or status.state.lower(), MAX_VERSION_REASON_BYTES)}"
            for name in shown
            for status in self._states(name)
            if status.state is not State.READY
        ]
        more = f" ({len(names)} models, of which {MAX_LISTED} are listed)" if len(names) > MAX_LISTED else ""
        return bounded(f"{what}{more}: {'; '.join(reasons)}", MAX_REASON_BYTES)

    def _states(self, name: str) -> list[VersionStatus]:
        """The states of one model's versions, by number; a version with a broken engine is not available."""
        entry = self.entries[name]
        broken = {version: model.batcher.broken for version, model in entry.versions.items() if model.batcher.broken}
        return [
            replace(status, state=State.UNAVAILABLE, reason=broken[version], code=BROKEN)
            if version in broken
            else status
            for version, status in sorted(entry.statuses.items())
        ]

    def _lookup_error(self, name: str, version: str) -> NotFound | NotReady:
        if name not in self.entries:
            if self.problem:  # what the repository holds is not known yet
                return NotReady(f"model {quoted(name)}: {self.problem}")
            return NotFound(f"model {quoted(name)} is not found; there are {listed(sorted(self.entries), name)}")
        states = self._states(name)
        version = str(self.entries[name].routing.labels.get(version, version))
        matching = [status for status in states if version in ("", str(status.version)) or status.version == 0]
        if not matching:
            known = [str(status.version) for status in states]
            return NotFound(f"model {name!r} has no version {quoted(version)}; there are {listed(known, version)}")
        status = matching[-1]
        label = f"model {name!r}" + (f" version {status.version}" if status.version else "")
        return NotReady(f"{label} is {status.state.lower()}: {status.reason or 'try again shortly'}")


class Registry:
    """All model versions of one repository. `on_change` is called after each change of the snapshot."""

    def __init__(self, repository: Path, *, strict: bool = False, on_change: Callable[[], None] = lambda: None) -> None:
        self.snapshot = Snapshot(printable_name(str(repository)))
        self._strict = strict
        self._on_change = on_change

    def get(self, name: str, version: str = "", key: str | None = None) -> LoadedModel:
        """As Snapshot.get(). The common cases are found here: every request makes this look-up."""
        try:
            entry = self.snapshot.entries[name]
            if version or entry.routing is NO_ROUTING:
                return entry.routes[version]
        except KeyError:
            pass
        return self.snapshot.get(name, version, key)

    def models(self) -> list[LoadedModel]:
        """As Snapshot.models()."""
        return self.snapshot.models()

    def index(self) -> list[VersionStatus]:
        """As Snapshot.index()."""
        return self.snapshot.index()

    def unready_reason(self) -> str:
        """As Snapshot.unready_reason(), strict if the server is."""
        return self.snapshot.unready_reason(strict=self._strict)

    # --- changes, made by the reconciler ---

    def put(self, name: str, entry: ModelEntry | None) -> None:
        """Add or replace a model; None removes it."""
        entries = {**self.snapshot.entries, name: entry}
        self._swap(replace(self.snapshot, entries={name: entry for name, entry in entries.items() if entry}))

    def set_problem(self, problem: str) -> None:
        """Set why the repository as a whole cannot be served; "" if it can."""
        self._swap(replace(self.snapshot, problem=problem))

    def _swap(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self._on_change()


def model_entry(models: Mapping[int, LoadedModel], statuses: Statuses, routing: Routing) -> ModelEntry:
    """The entry that routes the model's requests to exactly these versions."""
    return ModelEntry(statuses, _routes(models, routing) if models else {}, routing if routing.labels else NO_ROUTING)


def _routes(models: Mapping[int, LoadedModel], routing: Routing) -> Routes:
    labels = {label: models[version] for label, version in routing.labels.items() if version in models}
    # The canary is the default only if it is the only version.
    others = [version for version in models if version != routing.labels.get(CANARY)] or list(models)
    default = labels.get(STABLE) or models[max(others)]
    return {**{str(version): model for version, model in models.items()}, **labels, "": default}
