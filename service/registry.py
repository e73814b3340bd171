"""What is loaded, by name and version, and how that follows what is on disk.

Owns: the table that requests are routed by, each version's state and why, and reconciling both with the repository:
new versions are loaded and proved beside the old, the table is swapped in one assignment, and only then is the old
drained. Models that an operator unloaded stay so until they are loaded again. Does not own: how a version is loaded
(loader.py), what is on disk (repository.py), who gets the canary (routing.py).
"""

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

import structlog

from service.engine import DeviceUnavailable
from service.errors import NotFound, NotReady
from service.loader import LoadedModel
from service.repository import LoadError, ModelFolder, read_config, scan
from service.routing import CANARY, NO_ROUTING, STABLE, Routing, read_routing

log = structlog.get_logger(__name__)

# Why a version does not answer that an operator took away.
UNLOADED = "unloaded"
# How long a version that was replaced may take to answer what it has.
UNLOAD_SECONDS = 30.0

Load = Callable[[ModelFolder, int], LoadedModel]


class State(StrEnum):
    """Of a version, in RepositoryIndex's words."""

    LOADING = "LOADING"
    READY = "READY"
    UNAVAILABLE = "UNAVAILABLE"
    UNLOADING = "UNLOADING"


@dataclass(frozen=True)
class VersionStatus:
    """Where a version stands; `version` 0 speaks of the model as a whole."""

    name: str
    version: int
    state: State
    reason: str = ""
    fingerprint: str = ""  # of the files that the state came from


@dataclass(frozen=True)
class _Plan:
    """The versions that a configuration asks for, best first, and how many are enough beside those with a label."""

    candidates: list[int]
    enough: int
    routing: Routing

    def wants(self, version: int, have: Iterable[int]) -> bool:
        """Whether the version is to be loaded where `have` are."""
        labels = self.routing.labels
        return version in labels.values() or len(set(have) - {labels.get(CANARY)}) < self.enough


Routes = Mapping[str, LoadedModel]  # by version, and by label; "" is for requests that name neither


class Registry:
    """All model versions of one repository. Reads need no lock: tables are replaced, never changed."""

    def __init__(self, repository: Path, load: Load, *, on_change: Callable[[], None] = lambda: None) -> None:
        self._repository = repository
        self._load = load
        self._on_change = on_change
        self._reconciling = threading.Lock()
        self._routes: Mapping[str, Routes] = {}  # by model
        self._routing: Mapping[str, Routing] = {}  # of models with labels
        self._unloaded: set[str] = set()  # by an operator
        self._status: Mapping[tuple[str, int], VersionStatus] = {}
        self._problem = "models are still loading"
        self._unreadable = ""  # why the repository could not be read at the last look

    def get(self, name: str, version: str = "", key: str | None = None) -> LoadedModel:
        """The version with that number or label; for "" the stable one, which is the newest if none is labelled so.

        With a key it may be the canary instead, if the key falls to it; "" leaves that to chance.

        Raises:
            NotFound: there is no such model or version.
            NotReady: there is, but it cannot answer now.
        """
        try:
            routes = self._routes[name]
            if key is None or version or name not in self._routing or CANARY not in routes:
                return routes[version]
            return routes[CANARY if self._routing[name].takes_canary(name, key) else ""]
        except KeyError:
            raise self._why_not(name, version) from None

    def models(self) -> list[LoadedModel]:
        """Every version that is loaded, by name and number."""
        return [model for routes in self._routes.values() for version, model in routes.items() if version.isdigit()]

    def answering(self) -> set[str]:
        """The names of the models that answer requests without a version."""
        return {name for name, routes in self._routes.items() if not routes[""].batcher.broken}

    def index(self) -> list[VersionStatus]:
        """Every version that is loaded or should be, and its state."""
        broken = {(m.spec.name, m.spec.version): m.batcher.broken for m in self.models() if m.batcher.broken}
        statuses = [
            replace(status, state=State.UNAVAILABLE, reason=broken[key]) if key in broken else status
            for key, status in self._status.items()
        ]
        return sorted(statuses, key=lambda status: (status.name, status.version))

    def names(self) -> set[str]:
        """The names of all models, loaded or not."""
        return {name for name, _ in self._status}

    def not_ready_because(self) -> str:
        """Why the server as a whole is not ready; "" if it is: a model answers, and every model that should does."""
        if self._problem:
            return self._problem
        if not self._status:
            return f"the repository {self._repository} holds no models"
        if not self._routes and self._unloaded:
            return "all models were unloaded"
        answering = self.answering() | self._unloaded
        lacking = [status for status in self.index() if status.name not in answering]
        return "; ".join(f"{status.name} {status.version or ''}: {status.reason}" for status in lacking)

    def reconcile(self) -> None:
        """Make what is loaded follow what is on disk. One at a time; never raises for what it finds there."""
        with self._reconciling:
            try:
                folders = scan(self._repository)
            except LoadError as error:
                if str(error) != self._unreadable:  # said once, however often it is looked for
                    log.error("the repository cannot be read; what is loaded stays", reason=str(error))
                self._unreadable = str(error)
                if not self._routes:
                    self._problem = str(error)
                self._on_change()
                return
            self._unreadable = ""
            for folder in folders:
                if folder.name not in self._unloaded:
                    self._reconcile_model(folder)
            for name in self.names() - {folder.name for folder in folders}:
                self._unloaded.discard(name)
                self._replace(name, {}, {})
            self._problem = ""
            self._on_change()

    def load(self, name: str) -> None:
        """Load what the repository has of the model now, versions that were refused before included.

        Raises:
            NotFound: the repository has no such model.
            NotReady: its best version was refused; what was loaded before goes on answering.
        """
        with self._reconciling:
            try:
                folder = next((folder for folder in scan(self._repository) if folder.name == name), None)
            except LoadError as error:
                raise NotReady(str(error)) from error
            if folder is None:
                raise NotFound(f"model {name!r} is not in the repository {self._repository}")
            self._unloaded.discard(name)
            refused = {
                key for key, status in self._status.items() if key[0] == name and status.state is not State.READY
            }
            self._status = {key: status for key, status in self._status.items() if key not in refused}
            self._reconcile_model(folder)
            bad = [status for status in self.index() if status.name == name and status.state is not State.READY]
        if bad:
            serving = [model.spec.version for model in self.models() if model.spec.name == name]
            after = f"; version {serving[0]} goes on answering" if serving else ""
            raise NotReady(f"model {name!r} version {bad[-1].version or ''}: {bad[-1].reason}{after}")

    def unload(self, name: str) -> None:
        """Answer what the model has accepted and unload it, until it is loaded again.

        Raises:
            NotFound: there is no such model.
        """
        with self._reconciling:
            known = {status.version for status in self._status.values() if status.name == name}
            if not known:
                raise NotFound(f"model {name!r} is not found; there are {sorted(self.names()) or 'none'}")
            self._unloaded.add(name)
            status = {version: VersionStatus(name, version, State.UNAVAILABLE, UNLOADED) for version in known}
            self._replace(name, {}, status)

    def close(self) -> None:
        """Refuse new requests at every batcher; what waits is still answered."""
        for model in self.models():
            model.batcher.close()

    def join(self, timeout: float) -> bool:
        """Wait for every batcher to answer what it has; False if that took longer than `timeout` seconds."""
        limit = time.monotonic() + timeout
        done = [model.batcher.join(max(0.0, limit - time.monotonic())) for model in self.models()]
        return all(done)

    def _why_not(self, name: str, version: str) -> NotFound | NotReady:
        known = [status for status in self.index() if status.name == name]
        if not known:
            if self._problem and not self._status:
                return NotReady(f"model {name!r}: {self._problem}")
            return NotFound(f"model {name!r} is not found; there are {sorted(self.names()) or 'none'}")
        if name in self._routing:
            version = str(self._routing[name].labels.get(version, version))
        wanted = [status for status in known if version in ("", str(status.version)) or status.version == 0]
        if not wanted:
            versions = [str(status.version) for status in known]
            return NotFound(f"model {name!r} has no version {version!r}; there are {versions}")
        status = wanted[-1]
        label = f"model {name!r}" + (f" version {status.version}" if status.version else "")
        return NotReady(f"{label} is {status.state.lower()}: {status.reason or 'try again shortly'}")

    def _reconcile_model(self, folder: ModelFolder) -> None:
        name = folder.name
        loaded = {model.spec.version: model for model in self.models() if model.spec.name == name}
        before = {status.version: status for status in self._status.values() if status.name == name}
        try:
            plan = _plan(folder)
        except LoadError as error:
            self._fail_model(name, str(error), loaded, before)
            return
        keep: dict[int, LoadedModel] = {}
        status: dict[int, VersionStatus] = {}
        for version in plan.candidates:
            if not plan.wants(version, keep):
                continue
            fingerprint = folder.versions.get(version, "")
            known = before.get(version)
            if known and known.fingerprint == fingerprint and known.state in (State.READY, State.UNAVAILABLE):
                status[version] = known
                if version in loaded:
                    keep[version] = loaded[version]
                continue
            self._set_status(VersionStatus(name, version, State.LOADING))
            model, status[version] = self._try_load(folder, version, fingerprint)
            if model:
                keep[version] = model
            elif version in loaded and version in folder.versions:
                keep[version] = loaded[version]  # its files became bad; what is in memory was proved
        if not plan.candidates:
            status[0] = VersionStatus(name, 0, State.UNAVAILABLE, f"{folder.path} holds no version, such as {name}/1")
        self._replace(name, keep, status, plan.routing)

    def _try_load(
        self, folder: ModelFolder, version: int, fingerprint: str
    ) -> tuple[LoadedModel | None, VersionStatus]:
        name = folder.name
        try:
            if version not in folder.versions:
                raise LoadError(f"version_policy asks for version {version}, which is not in {folder.path}")
            model = self._load(folder, version)
        except (LoadError, DeviceUnavailable) as error:
            reason = str(error)
            log.error("model refused", model=name, version=version, reason=reason)
        except Exception as error:  # a file made to break its reader must not take the others down
            reason = f"it could not be loaded ({type(error).__name__}); the log has more"
            log.exception("model refused", model=name, version=version)
        else:
            log.info(
                "model ready",
                model=name,
                version=version,
                device=model.device,
                provider=model.provider,
                verified=model.verified,
                seconds=round(model.load_seconds, 3),
            )
            return model, VersionStatus(name, version, State.READY, fingerprint=fingerprint)
        return None, VersionStatus(name, version, State.UNAVAILABLE, reason, fingerprint)

    def _fail_model(
        self, name: str, reason: str, loaded: Mapping[int, LoadedModel], before: Mapping[int, VersionStatus]
    ) -> None:
        """The model's configuration became unreadable: what is loaded stays, with the reason on record."""
        if before.get(0, VersionStatus(name, 0, State.UNAVAILABLE)).reason != reason:
            log.error("model refused", model=name, reason=reason)
        status = {version: before[version] for version in loaded}
        status[0] = VersionStatus(name, 0, State.UNAVAILABLE, reason)
        self._replace(name, loaded, status, self._routing.get(name, NO_ROUTING))

    def _set_status(self, status: VersionStatus) -> None:
        self._status = {**self._status, (status.name, status.version): status}

    def _replace(
        self,
        name: str,
        models: Mapping[int, LoadedModel],
        status: Mapping[int, VersionStatus],
        routing: Routing = NO_ROUTING,
    ) -> None:
        """Route the model's requests to exactly these versions, and drain those that were routed to before."""
        before = [model for model in self.models() if model.spec.name == name]
        routes = {other: table for other, table in self._routes.items() if other != name}
        if models:
            routes[name] = _routes(models, routing)
        routings = {other: known for other, known in self._routing.items() if other != name}
        self._routing = routings | ({name: routing} if routing.labels else {})
        self._routes = routes
        others = {key: value for key, value in self._status.items() if key[0] != name}
        going = [model for model in before if model not in models.values()]
        leaving = {
            (name, model.spec.version): VersionStatus(
                name, model.spec.version, State.UNLOADING, "it answers what it has"
            )
            for model in going
        }
        own = {(name, version): value for version, value in status.items()}
        self._status = others | leaving | own
        self._on_change()
        for model in going:
            self._unload(model)
        if going:
            self._status = others | own
            self._on_change()

    def _unload(self, model: LoadedModel) -> None:
        name, version = model.spec.name, model.spec.version
        model.batcher.close()
        if not model.batcher.join(UNLOAD_SECONDS):
            model.batcher.fail_waiting(NotReady(f"model {name!r} version {version} was unloaded"))
        log.info("model unloaded", model=name, version=version)


def _routes(models: Mapping[int, LoadedModel], routing: Routing) -> Routes:
    labels = {label: models[version] for label, version in routing.labels.items() if version in models}
    # A canary is no default, however new it is, unless it is all there is.
    others = [version for version in models if version != routing.labels.get(CANARY)] or list(models)
    default = labels.get(STABLE) or models[max(others)]
    return {**{str(version): model for version, model in models.items()}, **labels, "": default}


def _plan(folder: ModelFolder) -> _Plan:
    """What the model's configuration asks for.

    `latest` names all versions, newest first: one that is refused gives its place to the next older.
    """
    config = read_config(folder)
    routing = read_routing(config)
    labelled = set(routing.labels.values())
    newest_first = list(folder.versions)
    policy = config.version_policy
    match policy.WhichOneof("policy_choice"):
        case "all":
            wanted, enough = newest_first, len(newest_first)
        case "specific":
            wanted, enough = list(policy.specific.versions), len(policy.specific.versions)
        case _:
            wanted, enough = newest_first, policy.latest.num_versions or 1
    rest = sorted(set(wanted) - labelled, reverse=True)
    return _Plan(sorted(labelled, reverse=True) + rest, enough, routing)
