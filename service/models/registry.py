"""The loaded model versions: the table that routes requests to them, and the state of every version.

Owns look-ups by name, version and label. The reconciler replaces the tables as a whole and nothing changes them in
place, so reads need no lock. Not here: changes on disk (reconciler.py), loading (loader.py), the canary's share
(routing.py).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from service.core.errors import NotFound, NotReady
from service.models.loader import LoadedModel
from service.models.routing import CANARY, NO_ROUTING, STABLE, Routing

# Reason of a version that an operator unloaded.
UNLOADED = "unloaded"


class State(StrEnum):
    """The state of a version, as RepositoryIndex names it."""

    LOADING = "LOADING"
    READY = "READY"
    UNAVAILABLE = "UNAVAILABLE"
    UNLOADING = "UNLOADING"


@dataclass(frozen=True)
class VersionStatus:
    """The state of one version; `version` 0 stands for the model as a whole."""

    name: str
    version: int
    state: State
    reason: str = ""
    code: str = ""  # of the LoadError that refused the version
    fingerprint: str = ""  # of the files that were read; see ModelFolder


Routes = Mapping[str, LoadedModel]  # by version and by label; "" is the default
Statuses = Mapping[int, VersionStatus]  # by version


class Registry:
    """All model versions of one repository. `on_change` is called when routes change and after each reconciliation."""

    def __init__(self, repository: Path, *, on_change: Callable[[], None] = lambda: None) -> None:
        self.problem = "models are still loading"  # why the repository as a whole cannot be served; "" if it can
        self.unloaded: frozenset[str] = frozenset()  # models that an operator unloaded
        self.changed = on_change
        self._repository = repository
        self._routes: Mapping[str, Routes] = {}  # by model
        self._routing: Mapping[str, Routing] = {}  # of models with labels
        self._statuses: Mapping[tuple[str, int], VersionStatus] = {}

    # --- look-ups ---

    def get(self, name: str, version: str = "", key: str | None = None) -> LoadedModel:
        """The version with this number or label; for "" the stable version, or the newest one if none has that label.

        With a `key`, a request without a version may go to the canary instead, as routing.py decides.

        Raises:
            NotFound: the model or version is unknown.
            NotReady: the version is known, but cannot answer now.
        """
        try:
            routes = self._routes[name]
            if key is None or version or name not in self._routing or CANARY not in routes:
                return routes[version]
            return routes[CANARY if self._routing[name].takes_canary(name, key) else ""]
        except KeyError:
            raise self._lookup_error(name, version) from None

    def models(self) -> list[LoadedModel]:
        """Every loaded version."""
        return [model for routes in self._routes.values() for version, model in routes.items() if version.isdigit()]

    def versions(self, name: str) -> dict[int, LoadedModel]:
        """The loaded versions of one model, by number."""
        return {model.spec.version: model for model in self.models() if model.spec.name == name}

    def names(self) -> set[str]:
        """The names of all models, loaded or not."""
        return {name for name, _ in self._statuses}

    def serving_models(self) -> set[str]:
        """The names of the models that answer requests without a version."""
        return {name for name, routes in self._routes.items() if not routes[""].batcher.broken}

    def index(self) -> list[VersionStatus]:
        """The state of every version that is loaded or should be, sorted by name and version."""
        broken = {(m.spec.name, m.spec.version): m.batcher.broken for m in self.models() if m.batcher.broken}
        statuses = [
            replace(status, state=State.UNAVAILABLE, reason=broken[key], code="engine") if key in broken else status
            for key, status in self._statuses.items()
        ]
        return sorted(statuses, key=lambda status: (status.name, status.version))

    def statuses(self, name: str) -> dict[int, VersionStatus]:
        """The states of one model's versions, as the reconciler left them."""
        return {status.version: status for status in self._statuses.values() if status.name == name}

    def routing(self, name: str) -> Routing:
        """The labels of one model."""
        return self._routing.get(name, NO_ROUTING)

    def unready_reason(self) -> str:
        """Why the server is not ready; "" if a model serves, and every model that no operator unloaded does."""
        if self.problem:
            return self.problem
        if not self._statuses:
            return f"the repository {self._repository} holds no models"
        if not self._routes and self.unloaded:
            return "all models were unloaded"
        serving = self.serving_models() | self.unloaded
        missing = [status for status in self.index() if status.name not in serving]
        return "; ".join(f"{status.name} {status.version or ''}: {status.reason}" for status in missing)

    def _lookup_error(self, name: str, version: str) -> NotFound | NotReady:
        statuses = [status for status in self.index() if status.name == name]
        if not statuses:
            if self.problem and not self._statuses:
                return NotReady(f"model {name!r}: {self.problem}")
            return NotFound(f"model {name!r} is not found; there are {sorted(self.names()) or 'none'}")
        version = str(self.routing(name).labels.get(version, version))
        matching = [status for status in statuses if version in ("", str(status.version)) or status.version == 0]
        if not matching:
            versions = [str(status.version) for status in statuses]
            return NotFound(f"model {name!r} has no version {version!r}; there are {versions}")
        status = matching[-1]
        label = f"model {name!r}" + (f" version {status.version}" if status.version else "")
        return NotReady(f"{label} is {status.state.lower()}: {status.reason or 'try again shortly'}")

    # --- changes, made by the reconciler ---

    def route(self, name: str, models: Mapping[int, LoadedModel], routing: Routing) -> None:
        """Route the model's requests to exactly these versions from now on."""
        routes = {other: table for other, table in self._routes.items() if other != name}
        if models:
            routes[name] = _routes(models, routing)
        routings = {other: kept for other, kept in self._routing.items() if other != name}
        self._routing = routings | ({name: routing} if routing.labels else {})
        self._routes = routes

    def set_statuses(self, name: str, statuses: Statuses) -> None:
        """Replace the states of one model's versions."""
        others = {key: status for key, status in self._statuses.items() if key[0] != name}
        self._statuses = others | {(name, version): status for version, status in statuses.items()}


def _routes(models: Mapping[int, LoadedModel], routing: Routing) -> Routes:
    labels = {label: models[version] for label, version in routing.labels.items() if version in models}
    # The canary is the default only if it is the only version.
    others = [version for version in models if version != routing.labels.get(CANARY)] or list(models)
    default = labels.get(STABLE) or models[max(others)]
    return {**{str(version): model for version, model in models.items()}, **labels, "": default}
