"""Reconciles the loaded versions with the repository: at start, by poll, on SIGHUP and on RepositoryModelLoad.

Owns the order of a change: read the folder, select versions, load and verify the new versions while the old ones serve,
swap the table, then drain the old versions. A version that fails is refused with a reason, and the older version keeps
serving. A model that an operator unloaded stays unloaded until it is loaded again. Not here: the tables (registry.py),
loading (loader.py), the files on disk (repository.py).
"""

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import structlog

from service.core.errors import FilesError, LoadError, NotFound, NotReady
from service.core.texts import listed, quoted
from service.models.config import read_config
from service.models.loader import LoadedModel
from service.models.registry import UNLOADED, Registry, State, Statuses, VersionStatus
from service.models.repository import ModelFolder, scan
from service.models.routing import CANARY, NO_ROUTING, Routing, read_routing

log = structlog.get_logger(__name__)

# Seconds that a replaced version gets to answer its pending requests.
UNLOAD_SECONDS = 30.0

Load = Callable[[ModelFolder, int], LoadedModel]


@dataclass(frozen=True)
class _Selection:
    """The versions that a configuration selects, in order of preference, and how many to load besides the canary."""

    candidates: list[int]
    count: int
    routing: Routing

    def wants(self, version: int, loaded: Iterable[int]) -> bool:
        """Whether to load the version, given the versions that are loaded."""
        labels = self.routing.labels
        return version in labels.values() or len(set(loaded) - {labels.get(CANARY)}) < self.count


class Reconciler:
    """Reconciles a registry with its repository. One change runs at a time; every method may block on a load."""

    def __init__(self, repository: Path, registry: Registry, load: Load) -> None:
        self._repository = repository
        self._registry = registry
        self._load = load
        self._lock = threading.Lock()
        self._unreadable = ""  # why the repository could not be read last time

    def reconcile(self) -> None:
        """Load, replace and unload models until the registry matches the repository. Never raises a LoadError."""
        with self._lock:
            registry = self._registry
            try:
                folders = scan(self._repository)
            except LoadError as error:
                self._report_unreadable(str(error))
                return
            self._unreadable = ""
            for folder in folders:
                if folder.name not in registry.unloaded:
                    self._reconcile_model(folder)
            for name in registry.names() - {folder.name for folder in folders}:
                registry.unloaded -= {name}
                self._replace(name, {}, {}, NO_ROUTING)
            registry.problem = ""
            registry.changed()

    def load(self, name: str) -> None:
        """Load the model's versions that are on disk now, including versions that were refused before.

        Raises:
            NotFound: the repository has no such model.
            NotReady: a selected version was refused; the version that was loaded before keeps serving.
        """
        with self._lock:
            folder = self._find(name)
            self._registry.unloaded -= {name}
            statuses = self._registry.statuses(name)
            ready = {version: status for version, status in statuses.items() if status.state is State.READY}
            self._registry.set_statuses(name, ready)
            self._reconcile_model(folder)
            refused = [
                status for status in self._registry.index() if status.name == name and status.state is not State.READY
            ]
        if refused:
            serving = list(self._registry.versions(name))
            after = f"; version {serving[0]} keeps serving" if serving else ""
            raise NotReady(f"model {name!r} version {refused[-1].version or ''}: {refused[-1].reason}{after}")

    def unload(self, name: str) -> None:
        """Answer the model's pending requests and unload it until it is loaded again.

        Raises:
            NotFound: the model is unknown.
        """
        with self._lock:
            versions = self._registry.statuses(name)
            if not versions:
                raise NotFound(
                    f"model {quoted(name)} is not found; there are {listed(sorted(self._registry.names()), name)}"
                )
            self._registry.unloaded |= {name}
            statuses = {version: VersionStatus(name, version, State.UNAVAILABLE, UNLOADED) for version in versions}
            self._replace(name, {}, statuses, NO_ROUTING)

    def _find(self, name: str) -> ModelFolder:
        try:
            folders = scan(self._repository)
        except LoadError as error:
            raise NotReady(str(error)) from error
        for folder in folders:
            if folder.name == name:
                return folder
        raise NotFound(f"model {name!r} is not in the repository {self._repository}")

    def _report_unreadable(self, reason: str) -> None:
        """Keep the loaded models, and log each reason once."""
        if reason != self._unreadable:
            log.error("repository unreadable, keeping loaded models", reason=reason)
        self._unreadable = reason
        if not self._registry.models():
            self._registry.problem = reason
        self._registry.changed()

    # --- one model ---

    def _reconcile_model(self, folder: ModelFolder) -> None:
        name = folder.name
        loaded = self._registry.versions(name)
        before = self._registry.statuses(name)
        try:
            selection = _select(folder)
        except LoadError as error:
            self._refuse_model(name, error)
            return
        keep: dict[int, LoadedModel] = {}
        statuses: dict[int, VersionStatus] = {}
        for version in selection.candidates:
            if not selection.wants(version, keep):
                continue
            fingerprint = folder.versions.get(version, "")
            status = before.get(version)
            if status and status.fingerprint == fingerprint and status.state in (State.READY, State.UNAVAILABLE):
                statuses[version] = status
                if version in loaded:
                    keep[version] = loaded[version]
                continue
            loading = VersionStatus(name, version, State.LOADING)
            self._registry.set_statuses(name, self._registry.statuses(name) | {version: loading})
            model, statuses[version] = self._try_load(folder, version, fingerprint)
            if model:
                keep[version] = model
            elif version in loaded and version in folder.versions:
                keep[version] = loaded[version]  # its files became invalid after it was loaded and verified
        if not selection.candidates:
            reason = f"{folder.path} holds no version, such as {name}/1"
            statuses[0] = VersionStatus(name, 0, State.UNAVAILABLE, reason, FilesError.code)
        self._replace(name, keep, statuses, selection.routing)

    def _try_load(
        self, folder: ModelFolder, version: int, fingerprint: str
    ) -> tuple[LoadedModel | None, VersionStatus]:
        status = VersionStatus(folder.name, version, State.UNAVAILABLE, fingerprint=fingerprint)
        try:
            if version not in folder.versions:
                raise FilesError(f"version_policy selects version {version}, which is not in {folder.path}")
            model = self._load(folder, version)
        except LoadError as error:
            log.error("model refused", model=folder.name, version=version, code=error.code, reason=str(error))
            return None, replace(status, reason=str(error), code=error.code)
        except Exception as error:  # a malicious file must not stop the other models
            log.exception("model refused", model=folder.name, version=version, code=LoadError.code)
            reason = f"loading failed ({type(error).__name__}); see the server's log"
            return None, replace(status, reason=reason, code=LoadError.code)
        log.info(
            "model ready",
            model=folder.name,
            version=version,
            device=model.device,
            provider=model.provider,
            verified=model.verified,
            seconds=round(model.load_seconds, 3),
        )
        return model, replace(status, state=State.READY)

    def _refuse_model(self, name: str, error: LoadError) -> None:
        """Record why the model's configuration is refused. Loaded versions keep serving."""
        before = self._registry.statuses(name)
        loaded = self._registry.versions(name)
        reason = str(error)
        if 0 not in before or before[0].reason != reason:
            log.error("model refused", model=name, code=error.code, reason=reason)
        statuses = {version: before[version] for version in loaded}
        statuses[0] = VersionStatus(name, 0, State.UNAVAILABLE, reason, error.code)
        self._replace(name, loaded, statuses, self._registry.routing(name))

    def _replace(self, name: str, models: dict[int, LoadedModel], statuses: Statuses, routing: Routing) -> None:
        """Route the model's requests to exactly these versions, and drain the versions that served before."""
        registry = self._registry
        drained = [model for model in registry.versions(name).values() if model not in models.values()]
        registry.route(name, models, routing)
        unloading = {
            model.spec.version: VersionStatus(name, model.spec.version, State.UNLOADING, "answering pending requests")
            for model in drained
        }
        registry.set_statuses(name, unloading | dict(statuses))
        registry.changed()
        for model in drained:
            _drain(model)
        if drained:
            registry.set_statuses(name, statuses)
            registry.changed()


def _drain(model: LoadedModel) -> None:
    name, version = model.spec.name, model.spec.version
    model.batcher.close()
    if not model.batcher.join(UNLOAD_SECONDS):
        model.batcher.fail_pending(NotReady(f"model {name!r} version {version} was unloaded"))
    log.info("model unloaded", model=name, version=version)


def _select(folder: ModelFolder) -> _Selection:
    """The versions that the model's configuration selects.

    With `latest` every version is a candidate, newest first: the next older version replaces a refused one.
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
    return _Selection(sorted(labelled, reverse=True) + rest, count, routing)
