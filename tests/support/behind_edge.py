"""A service in this process with toy models, and an edge before it."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.edge import EdgeProcess, edge_process
from tests.support.local_service import LocalService, local_service
from tests.support.models import add_version, doubling_model
from tests.support.paths import ROOT
from tests.support.publishing import publish_brightness


@dataclass(frozen=True)
class BehindEdge:
    """The edge, and the service that it calls."""

    edge: EdgeProcess
    service: LocalService

    @property
    def address(self) -> str:
        """The edge's, for clients."""
        return self.edge.address

    @property
    def operators(self) -> str:
        """The edge's, for operators."""
        return f"127.0.0.1:{self.edge.operators_port}"


@contextmanager
def behind_edge(
    folder: Path, *, root: Path = ROOT, edge: Mapping[str, Any] | None = None, **settings: Any
) -> Iterator[BehindEdge]:
    """A native server with the models `double` and `brightness`; `edge` has the edge's settings, `settings` its own.

    `root` holds deploy/edge; see tests.support.edge.copy_of_edge.
    """
    models = folder / "models"
    add_version(models, "double", doubling_model(), config="max_batch_size: 8 dynamic_batching { }")
    publish_brightness(models)
    with (
        local_service(models, "native", **settings) as service,
        edge_process(service.address, folder, root=root, **(edge or {})) as process,
    ):
        yield BehindEdge(process, service)
