"""The versions that this process loaded and that may still hold requests, also those that are being unloaded.

Owns what a shutdown does with them, and the count of answered requests over the life of the process. Not here: which
version answers (models/registry.py), unloading (models/reconciler.py).
"""

import time
import weakref
from weakref import ReferenceType

from service.batching.statistics import Statistics
from service.core.errors import ServiceError
from service.models.loader import LoadedModel


class ServedModels:
    """The versions, held weakly: one that was unloaded frees its memory. `add` is called on the thread that loads."""

    def __init__(self) -> None:
        self._loaded: tuple[tuple[ReferenceType[LoadedModel], Statistics], ...] = ()  # replaced as a whole
        self._answered_before = 0  # by versions that are gone

    def add(self, model: LoadedModel) -> None:
        """Keep a version that was loaded, and the counts of versions that are gone."""
        kept = [(weakref.ref(model), model.statistics)]
        for served, statistics in self._loaded:
            if served() is None:
                self._answered_before += _answered(statistics)
            else:
                kept.append((served, statistics))
        self._loaded = tuple(kept)

    @property
    def answered(self) -> int:
        """Requests that were answered OK since the process started."""
        return self._answered_before + sum(_answered(statistics) for _, statistics in self._loaded)

    @property
    def pending(self) -> int:
        """Requests in a queue or in an engine."""
        return sum(model.batcher.requests_in_flight for model in self._models())

    def close(self) -> None:
        """Refuse new requests in every batcher. Pending requests are still answered."""
        for model in self._models():
            model.batcher.close()

    def join(self, timeout: float) -> bool:
        """Wait until every batcher has answered its requests; False if that took longer than `timeout` seconds."""
        limit = time.monotonic() + timeout
        done = [model.batcher.join(max(0.0, limit - time.monotonic())) for model in self._models()]
        return all(done)

    def fail_pending(self, error: ServiceError) -> None:
        """Fail every queued request."""
        for model in self._models():
            model.batcher.fail_pending(error)

    def _models(self) -> list[LoadedModel]:
        return [model for served, _ in self._loaded if (model := served()) is not None]


def _answered(statistics: Statistics) -> int:
    with statistics.reading():
        return statistics.codes["OK"]
