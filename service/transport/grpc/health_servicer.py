"""grpc.health.v1.Health: the status of the server (name ""), of each model (its name), and of the process ("liveness").

"liveness" is SERVING as long as the process runs: Kubernetes kills a container whose liveness probe gets NOT_SERVING,
and a server that drains or waits for its first model must not be killed.

Owns the statuses and the watches on them, on the server's event loop: `set_all` must be called there. Not here: what
decides a status (app/server.py). grpcio-health-checking is not used because its asyncio servicer has no List and
forgets watchers when another one leaves.
"""

import asyncio
from collections.abc import AsyncGenerator, Mapping

from service.core.errors import NotFound
from service.core.texts import listed, quoted
from service.pb import health_pb2 as pb

Status = pb.HealthCheckResponse.ServingStatus
LIVENESS = "liveness"


class HealthServicer:
    """Check, Watch and List."""

    def __init__(self) -> None:
        self._serving: Mapping[str, bool] = {"": False, LIVENESS: True}
        self._changed = asyncio.Event()

    def set_all(self, serving: Mapping[str, bool]) -> None:
        """Replace all statuses, and send changes to the watches."""
        serving = {**serving, LIVENESS: True}
        if serving == self._serving:
            return
        self._serving = serving
        self._changed.set()
        self._changed = asyncio.Event()

    def Check(self, request: pb.HealthCheckRequest) -> pb.HealthCheckResponse:
        """The status of one name. Raises NotFound if the name is unknown."""
        if request.service not in self._serving:
            names = listed(sorted(self._serving), request.service)
            raise NotFound(f"unknown service {quoted(request.service)}; the services are {names}")
        return pb.HealthCheckResponse(status=self._status(request.service))

    def List(self, _: pb.HealthListRequest) -> pb.HealthListResponse:
        """The status of every name."""
        return pb.HealthListResponse(
            statuses={name: pb.HealthCheckResponse(status=self._status(name)) for name in self._serving}
        )

    async def Watch(self, request: pb.HealthCheckRequest) -> AsyncGenerator[pb.HealthCheckResponse]:
        """The current status, then every change of it; SERVICE_UNKNOWN while the name is unknown."""
        sent = None
        while True:
            changed = self._changed
            status = self._status(request.service)
            if status != sent:
                sent = status
                yield pb.HealthCheckResponse(status=status)
            await changed.wait()

    def _status(self, name: str) -> pb.HealthCheckResponse.ServingStatus:
        if name not in self._serving:
            return Status.SERVICE_UNKNOWN
        return Status.SERVING if self._serving[name] else Status.NOT_SERVING
