"""What is loaded, by name and version, and how that follows what is on disk.

Owns: the table that requests are routed by, each version's state and why, and reconciling both with the repository:
new versions are loaded and proved beside the old, the table is swapped in one assignment, and only then is the old
drained. Does not own: how a version is loaded (loader.py) or what is on disk (repository.py).
"""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import structlog

from service.engine import DeviceUnavailable
from service.errors import NotFound, NotReady
from service.loader import LoadedModel
from service.repository import LoadError, ModelFolder, read_config, scan

log = structlog.get_logger(__name__)

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


class Registry:
    """All model versions of one repository. Reads need no lock: tables are replaced, never changed."""

    def __init__(self, repository: Path, load: Load, *, on_change: Callable[[], None] = lambda: None) -> None:
        self._repository = repository
        self._load = load
        self._on_change = on_change
        self._reconciling = threading.Lock()
        self._routes: Mapping[str, Mapping[str, LoadedModel]] = {}  # name → version, "" is the newest → model
        self._status: Mapping[tuple[str, int], VersionStatus] = {}
        self._problem = "models are still loading"

    def get(self, name: str, version: str = "") -> LoadedModel:
        """The version, or the newest that is ready where `version` is "".

        Raises:
            NotFound: there is no such model or version.
            NotReady: there is, but it cannot answer now.
        """
        try:
            return self._routes[name][version]
        except KeyError:
            raise self._why_not(name, version) from None

    def models(self) -> list[LoadedModel]:
        """Every version that answers, by name and number."""
        return [model for routes in self._routes.values() for version, model in routes.items() if version]

    def index(self) -> list[VersionStatus]:
        """Every version that is loaded or should be, and its state."""
        return sorted(self._status.values(), key=lambda status: (status.name, status.version))

    def names(self) -> set[str]:
        """The names of all models, loaded or not."""
        return {name for name, _ in self._status}

    def not_ready_because(self) -> str:
        """Why the server as a whole is not ready; "" if it is: a model answers, and every model that should does."""
        if self._problem:
            return self._problem
        if not self._status:
            return f"the repository {self._repository} holds no models"
        lacking = [status for status in self.index() if status.name not in self._routes]
        return "; ".join(f"{status.name} {status.version or ''}: {status.reason}" for status in lacking)

    def reconcile(self) -> None:
        """Make what is loaded follow what is on disk. One at a time; never raises for what it finds there."""
        with self._reconciling:
            try:
                folders = scan(self._repository)
            except LoadError as error:
                log.error("the repository cannot be read; what is loaded stays", reason=str(error))
                if not self._routes:
                    self._problem = str(error)
                self._on_change()
                return
            for folder in folders:
                self._reconcile_model(folder)
            for name in self.names() - {folder.name for folder in folders}:
                self._replace(name, {}, {})
            self._problem = ""
            self._on_change()

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
            return NotFound(f"model {name!r} is not found; there are {sorted(self.names()) or 'none'}")
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
            candidates, enough = _wanted(folder)
        except LoadError as error:
            self._fail_model(name, str(error), loaded, before)
            return
        keep: dict[int, LoadedModel] = {}
        status: dict[int, VersionStatus] = {}
        for version in candidates:
            if len(keep) == enough:
                break
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
        if not candidates:
            status[0] = VersionStatus(name, 0, State.UNAVAILABLE, f"{folder.path} holds no version, such as {name}/1")
        self._replace(name, keep, status)

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
        self._replace(name, loaded, status)

    def _set_status(self, status: VersionStatus) -> None:
        self._status = {**self._status, (status.name, status.version): status}

    def _replace(self, name: str, models: Mapping[int, LoadedModel], status: Mapping[int, VersionStatus]) -> None:
        """Route the model's requests to exactly these versions, and drain those that were routed to before."""
        before = [model for version, model in self._routes.get(name, {}).items() if version]
        routes = {other: table for other, table in self._routes.items() if other != name}
        if models:
            routes[name] = {str(version): model for version, model in models.items()} | {"": models[max(models)]}
        self._routes = routes
        others = {key: value for key, value in self._status.items() if key[0] != name}
        self._status = others | {(name, version): value for version, value in status.items()}
        for model in before:
            if model not in models.values():
                self._unload(model)
        self._on_change()

    def _unload(self, model: LoadedModel) -> None:
        name, version = model.spec.name, model.spec.version
        model.batcher.close()
        if not model.batcher.join(UNLOAD_SECONDS):
            model.batcher.fail_waiting(NotReady(f"model {name!r} version {version} was unloaded"))
        log.info("model unloaded", model=name, version=version)


def _wanted(folder: ModelFolder) -> tuple[list[int], int]:
    """The versions that the model's policy asks for, best first, and how many of them are enough.

    `latest` names all versions, newest first: one that is refused gives its place to the next older.
    """
    policy = read_config(folder).version_policy
    newest_first = list(folder.versions)
    match policy.WhichOneof("policy_choice"):
        case "all":
            return newest_first, len(newest_first)
        case "specific":
            return sorted(policy.specific.versions, reverse=True), len(policy.specific.versions)
        case _:
            return newest_first, policy.latest.num_versions or 1
