"""Reconciles the loaded versions with the repository: at start, by poll, on SIGHUP and on RepositoryModelLoad.

Owns the order of a change: read the folder, select versions, load and verify the new versions while the old ones serve,
swap the snapshot, then drain the old versions. A version that fails is refused with a reason, and what was loaded keeps
serving until an operator removes or replaces it. Refused files are loaded again once their content changes, and at
every look if they could not be read. A model that an operator unloaded stays unloaded until it is loaded again. Each
trouble is logged once while it lasts. Not here: the table (registry.py), loading (loader.py), the folders on
disk and the versions that they select (repository/), which of these must be loaded (candidate.py).
"""

import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import structlog

from service.core.errors import NotFound, NotReady
from service.core.load_errors import FilesError, FilesUnreadable, LoadError
from service.core.texts import listed, quoted
from service.models.candidate import Candidate, candidate_for
from service.models.loader import LoadedModel
from service.models.registry import UNLOADED, ModelEntry, Registry, State, VersionStatus, model_entry
from service.models.repository.scan import find_model, scan
from service.models.repository.selection import Selection, select
from service.models.repository.version_files import ModelFolder

log = structlog.get_logger(__name__)

# Seconds that a replaced version gets to answer its pending requests.
UNLOAD_SECONDS = 30.0

Load = Callable[[ModelFolder, int], LoadedModel]


class Reconciler:
    """Reconciles a registry with its repository. One change runs at a time; every method may block on a load."""

    def __init__(self, repository: Path, registry: Registry, load: Load) -> None:
        self._repository = repository
        self._registry = registry
        self._load = load
        self._lock = threading.Lock()
        self._unreadable = ""  # why the repository could not be read last time
        self._skipped: Mapping[str, str] = {}  # entries of the repository that are not models, with the reason

    def reconcile(self) -> None:
        """Load, replace and unload models until the registry matches the repository. Never raises a LoadError."""
        with self._lock:
            try:
                listing = scan(self._repository)
            except LoadError as error:
                self._report_unreadable(str(error))
                return
            self._report_readable(listing.skipped)
            for folder in listing.models:
                self._reconcile_model(folder)
            for name in self._registry.snapshot.entries.keys() - {folder.name for folder in listing.models}:
                self._put(name, None)
            self._registry.set_problem("")

    def load(self, name: str) -> None:
        """Load the model's versions that are on disk now, including versions that were refused before.

        Raises:
            NotFound: the repository has no such model.
            NotReady: a selected version was refused; the version that was loaded before keeps serving.
        """
        with self._lock:
            folder = self._find(name)
            entry = self._registry.snapshot.entries.get(name, ModelEntry({}))
            ready = {
                version: replace(status, refused=None)
                for version, status in entry.statuses.items()
                if status.state is State.READY
            }
            loading = {0: VersionStatus(name, 0, State.LOADING)}
            self._registry.put(name, replace(entry, statuses=loading | ready, unloaded=False))
            self._reconcile_model(folder)
            entry = self._registry.snapshot.entries[name]
        refused = [status for _, status in sorted(entry.statuses.items()) if status.code]
        if refused:
            serving = list(entry.versions)
            after = f"; version {serving[0]} keeps serving" if serving else ""
            raise NotReady(f"model {name!r} version {refused[-1].version or ''}: {refused[-1].reason}{after}")

    def unload(self, name: str) -> None:
        """Answer the model's pending requests and unload it until it is loaded again.

        Raises:
            NotFound: the model is unknown.
        """
        with self._lock:
            entries = self._registry.snapshot.entries
            if name not in entries:
                raise NotFound(f"model {quoted(name)} is not found; there are {listed(sorted(entries), name)}")
            statuses = {
                version: VersionStatus(name, version, State.UNAVAILABLE, UNLOADED) for version in entries[name].statuses
            }
            self._put(name, ModelEntry(statuses, unloaded=True))

    def _find(self, name: str) -> ModelFolder:
        try:
            folder = find_model(self._repository, name)
        except LoadError as error:
            raise NotReady(str(error)) from error
        if folder is None:
            raise NotFound(f"model {name!r} is not in the repository {self._registry.snapshot.repository}")
        return folder

    def _report_unreadable(self, reason: str) -> None:
        """Keep the loaded models, and log each reason once."""
        if reason != self._unreadable:
            log.error("repository unreadable, keeping loaded models", reason=reason)
        self._unreadable = reason
        if not self._registry.models():
            self._registry.set_problem(reason)

    def _report_readable(self, skipped: Mapping[str, str]) -> None:
        """Log the end of trouble with the repository, and the entries that are newly skipped."""
        if self._unreadable:
            log.info("repository readable again")
        self._unreadable = ""
        for name, reason in skipped.items():
            if self._skipped.get(name) != reason:
                log.info("not a model, skipped", entry=name, reason=reason)
        self._skipped = skipped

    # --- one model ---

    def _reconcile_model(self, folder: ModelFolder) -> None:
        """Load, replace and unload versions until the model matches its folder."""
        entry = self._registry.snapshot.entries.get(folder.name, ModelEntry({}))
        if entry.unloaded:
            return
        try:
            if folder.problem:
                raise folder.problem
            new = self._select_versions(folder, select(folder), entry)
        except Exception as error:  # noqa: BLE001 # one model must not stop the others
            new = self._refuse_model(folder.name, entry, error)
        self._put(folder.name, new)

    def _select_versions(self, folder: ModelFolder, selection: Selection, entry: ModelEntry) -> ModelEntry:
        """The entry with the selected versions. Files that are refused replace nothing that is loaded."""
        models: dict[int, LoadedModel] = {}
        statuses: dict[int, VersionStatus] = {}
        for version in selection.candidates:
            if not selection.wants(version, models):
                continue
            candidate = candidate_for(folder, version, selection.config, entry)
            model, status = candidate.serving, candidate.settled()
            if status is None:
                if model is None and not (candidate.before and candidate.before.retry):
                    loading = VersionStatus(folder.name, version, State.LOADING)
                    shown = {**entry.statuses, **statuses, version: loading}
                    self._registry.put(folder.name, replace(entry, statuses=shown))
                model, status = self._load_candidate(candidate)
            statuses[version] = status
            if model:
                models[version] = model
        if not selection.candidates:
            text = f"{folder.path} holds no version, such as {folder.name}/1"
            error = FilesError("version_policy selects no version" if folder.versions else text)
            statuses[0] = self._refused(VersionStatus(folder.name, 0, State.UNAVAILABLE), error, entry.statuses.get(0))
        elif not models:  # every selected version is refused: keep what is loaded and still on disk
            models = {version: model for version, model in entry.versions.items() if version in folder.versions}
            statuses = {version: entry.statuses[version] for version in models} | statuses
        return model_entry(models, statuses, selection.routing)

    def _load_candidate(self, candidate: Candidate) -> tuple[LoadedModel | None, VersionStatus]:
        """The version that answers from now on, if any, and its status."""
        folder, version, serving = candidate.folder, candidate.version, candidate.serving
        try:
            if version not in folder.versions:
                raise FilesError(f"version_policy selects version {version}, which is not in {folder.path}")
            model = self._load(folder, version)
        except Exception as error:  # noqa: BLE001 # a malicious file must not stop the other models
            status = VersionStatus(
                folder.name,
                version,
                State.READY if serving else State.UNAVAILABLE,
                loaded=candidate.before.loaded if candidate.before and serving else None,
                refused=candidate.current,
            )
            return serving, self._refused(status, error, candidate.before)
        log.info(
            "model ready",
            model=folder.name,
            version=version,
            device=model.device,
            provider=model.provider,
            verified=model.verified,
            seconds=round(model.load_seconds, 3),
        )
        warnings = "; ".join(model.warnings)
        return model, VersionStatus(folder.name, version, State.READY, warnings, loaded=candidate.loaded())

    def _refuse_model(self, name: str, entry: ModelEntry, error: Exception) -> ModelEntry:
        """The entry with the reason why the model is refused as a whole. Loaded versions keep serving."""
        status = VersionStatus(name, 0, State.UNAVAILABLE)
        return replace(entry, statuses={**entry.statuses, 0: self._refused(status, error, entry.statuses.get(0))})

    def _refused(self, status: VersionStatus, error: Exception, before: VersionStatus | None) -> VersionStatus:
        """The status with the reason of a refusal, which is logged unless it was before."""
        if isinstance(error, OSError):
            error = FilesUnreadable(f"{error.filename or 'a file'} cannot be read: {error.strerror}")
        known = isinstance(error, LoadError)
        reason = str(error) if known else f"loading failed ({type(error).__name__}); see the server's log"
        code = error.code if isinstance(error, LoadError) else LoadError.code
        if before is None or (before.reason, before.code) != (reason, code):
            version = {"version": status.version} if status.version else {}
            exception = None if known else error
            log.error("model refused", model=status.name, **version, code=code, reason=reason, exc_info=exception)
        return replace(status, reason=reason, code=code, retry=isinstance(error, FilesUnreadable))

    def _put(self, name: str, new: ModelEntry | None) -> None:
        """Route the model's requests to the new entry's versions, and drain the versions that served before."""
        old, then = self._registry.snapshot.entries.get(name, ModelEntry({})), new or ModelEntry({})
        if new and _unchanged(old, new):
            return
        kept = {id(model) for model in then.versions.values()}
        drained = {version: model for version, model in old.versions.items() if id(model) not in kept}
        unloading = {
            version: VersionStatus(name, version, State.UNLOADING, "answering pending requests") for version in drained
        }
        if drained:
            self._registry.put(name, replace(then, statuses={**unloading, **then.statuses}))
        for model in drained.values():
            _drain(model)
        self._registry.put(name, new)
        loaded = kept - {id(model) for model in old.versions.values()}
        if _refusals(old) - _refusals(then) and not loaded:  # else "model ready" says so
            log.info("model no longer refused", model=name)


def _unchanged(old: ModelEntry, new: ModelEntry) -> bool:
    same_models = {version: id(model) for version, model in old.routes.items()} == {
        version: id(model) for version, model in new.routes.items()
    }
    return same_models and (old.statuses, old.routing, old.unloaded) == (new.statuses, new.routing, new.unloaded)


def _refusals(entry: ModelEntry) -> set[int]:
    return {version for version, status in entry.statuses.items() if status.code}


def _drain(model: LoadedModel) -> None:
    name, version = model.spec.name, model.spec.version
    model.batcher.close()
    if not model.batcher.join(UNLOAD_SECONDS):
        model.batcher.fail_pending(NotReady(f"model {name!r} version {version} was unloaded"))
    log.info("model unloaded", model=name, version=version)
