"""grpc.health.v1.Health: one name for the server, "", one a model, and "liveness", which serves while the process does.

Kubernetes kills what a liveness probe finds NOT_SERVING; a server that drains or waits for its first model is alive.

Owns: the statuses and who watches them. It lives on the server's event loop: `set_all` must be called there.
Written here because grpcio-health-checking's asyncio servicer has no List and forgets watchers when another leaves.
"""

import asyncio
from collections.abc import AsyncGenerator, Mapping

from service.core.errors import NotFound
from service.pb import health_pb2 as pb

Status = pb.HealthCheckResponse.ServingStatus
LIVENESS = "liveness"


class HealthServicer:
    """Check, Watch and List."""

    def __init__(self) -> None:
        self._serving: Mapping[str, bool] = {"": False, LIVENESS: True}
        self._changed = asyncio.Event()

    def set_all(self, serving: Mapping[str, bool]) -> None:
        """Replace all statuses, and tell those who watch."""
        serving = {**serving, LIVENESS: True}
        if serving == self._serving:
            return
        self._serving = serving
        self._changed.set()
        self._changed = asyncio.Event()

    def Check(self, request: pb.HealthCheckRequest) -> pb.HealthCheckResponse:
        """The status of one name. Raises NotFound for one that is unknown."""
        if request.service not in self._serving:
            raise NotFound(f"no service {request.service!r}; there are {sorted(self._serving)}")
        return pb.HealthCheckResponse(status=self._status(request.service))

    def List(self, _: pb.HealthListRequest) -> pb.HealthListResponse:
        """The status of every name."""
        return pb.HealthListResponse(
            statuses={name: pb.HealthCheckResponse(status=self._status(name)) for name in self._serving}
        )

    async def Watch(self, request: pb.HealthCheckRequest) -> AsyncGenerator[pb.HealthCheckResponse]:
        """The status now and at every change; SERVICE_UNKNOWN while the name is unknown."""
        last = None
        while True:
            changed = self._changed
            status = self._status(request.service)
            if status != last:
                last = status
                yield pb.HealthCheckResponse(status=status)
            await changed.wait()

    def _status(self, name: str) -> pb.HealthCheckResponse.ServingStatus:
        if name not in self._serving:
            return Status.SERVICE_UNKNOWN
        return Status.SERVING if self._serving[name] else Status.NOT_SERVING
