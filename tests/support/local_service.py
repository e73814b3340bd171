"""A whole service in this process, and a gate in front of its engines."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
from numpy.typing import NDArray

from service.app.process import new_event_loop
from service.app.server import Server
from service.app.settings import Settings
from service.pb import inference_pb2_grpc
from tests.support.waiting import WAIT, wait_until


class LocalService:
    """A whole service in this process, on a thread of its own and free loopback ports."""

    def __init__(self, repository: Path, grpc_server: str, **settings: Any) -> None:
        options: dict[str, Any] = {
            "grpc_port": 0,
            "metrics_port": 0,
            "device": "cpu",
            "lame_duck_seconds": 0.0,
        } | settings
        self.server = Server(make_settings(model_repository=repository, grpc_server=grpc_server, **options))
        self._loop = new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="service", daemon=True)
        self._thread.start()
        self._call(self.server.start())
        self.address = self.server.grpc_address
        self.channel = grpc.insecure_channel(self.address)
        self.stub = inference_pb2_grpc.GRPCInferenceServiceStub(self.channel)

    def ready(self) -> "LocalService":
        """Wait until the server is ready."""
        wait_until(lambda: not self.server.unready_reason(), "the service is ready")
        return self

    def loaded(self) -> "LocalService":
        """Wait until the repository is loaded, even if models were refused."""
        wait_until(lambda: "still loading" not in self.server.unready_reason(), "the repository is loaded")
        return self

    def stop(self, *, lame_duck: float = 0.0) -> None:
        """Shut down as on SIGTERM."""
        self.channel.close()
        self._call(self.server.shut_down(lame_duck=lame_duck))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(WAIT)
        self._loop.close()

    def begin_shut_down(self, *, lame_duck: float = 0.0) -> Callable[[], None]:
        """Start the shutdown. The returned function waits for its end."""
        future = asyncio.run_coroutine_threadsafe(self.server.shut_down(lame_duck=lame_duck), self._loop)

        def finish() -> None:
            future.result(WAIT)
            self.channel.close()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(WAIT)
            self._loop.close()

        return finish

    def _call(self, coroutine: Any) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(WAIT)


def make_settings(**values: Any) -> Settings:
    """Settings from these values; the command line of pytest is ignored."""
    return Settings(_cli_parse_args=[], **values)  # type: ignore[call-arg]


@contextmanager
def local_service(repository: Path, grpc_server: str, **settings: Any) -> Iterator[LocalService]:
    """A LocalService with a loaded repository; it is stopped at the end."""
    service = LocalService(repository, grpc_server, **settings)
    try:
        yield service.loaded()
    finally:
        service.stop()


class Gate:
    """Stands in front of every engine of this process. It is open at first; while held, runs wait to be let through."""

    def __init__(self, run: Callable[..., Any]) -> None:
        self._run = run
        self._permits = threading.Semaphore(0)
        self._held = False
        self.sizes: list[int] = []  # rows of each run that began since hold()

    def run(self, engine: Any, inputs: tuple[NDArray[Any], ...]) -> Any:
        """Stands in for Engine.run."""
        self.sizes.append(len(inputs[0]))
        while self._held and not self._permits.acquire(timeout=0.01):
            pass
        return self._run(engine, inputs)

    def hold(self) -> None:
        """Make runs wait from now on."""
        self.sizes.clear()
        self._held = True

    def let_through(self, runs: int = 1) -> None:
        """Let that many runs continue."""
        self._permits.release(runs)

    def open(self) -> None:
        """Let all runs continue."""
        self._held = False

    def wait_for(self, runs: int) -> None:
        """Wait until that many runs have begun."""
        wait_until(lambda: len(self.sizes) >= runs, f"{runs} runs have begun")
