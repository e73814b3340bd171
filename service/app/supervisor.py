"""The supervisor of `--workers N`: starts, watches, drains and restarts workers, and answers probes for all of them.

A Python process computes on one core, so a machine with many cores runs several workers. Each is a whole service with
the gRPC port shared (SO_REUSEPORT); the kernel spreads connections over them. Each reports its state and metrics every
second, and the supervisor answers /metrics and /readyz from the last reports: no worker can hold a probe up. It handles
no requests.

Owns the loop that starts, watches and stops the workers. Not here: the decisions about one of them (worker.py), the
merged metrics (telemetry/workers.py), serving (server.py), which does not know of workers.
"""

import contextlib
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from multiprocessing.connection import wait
from pathlib import Path

import structlog
from prometheus_client.registry import CollectorRegistry

from service.app.credentials import Credentials
from service.app.exposure import check_exposure, choose_grpc_server, log_exposure
from service.app.process import ECHO_SECONDS
from service.app.settings import Settings
from service.app.startup import CANNOT_START, CannotStart, open_metrics, read_tokens, reserve_port
from service.app.worker import TICK_SECONDS, Exit, Worker, WorkerProcess
from service.app.worker_process import Command, run_worker
from service.core.version import COMMIT_VARIABLE, commit
from service.telemetry.workers import WorkersCollector

log = structlog.get_logger(__name__)

PRELOADED = ["service.app.forkserver", "service.app.worker_process", "service.transport.grpc.native_server"]


def serve(settings: Settings) -> int:
    """Run the supervisor and its workers to their end and return the exit status."""
    try:
        return Supervisor(settings).run()
    except CannotStart as error:
        print(f"error: {error}", file=sys.stderr)
        return CANNOT_START


class Supervisor:
    """Runs `settings.workers` worker processes on one gRPC port."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._choice = choose_grpc_server(settings)
        check_exposure(settings)
        read_tokens(settings.tokens_file)  # so that an invalid one is one error, and not one of each worker
        self._credentials = Credentials(settings.model_copy(update={"tokens_file": None}))
        self._reserved, port = reserve_port(settings)
        self._worker_settings = settings.model_copy(update={"workers": 1, "reuse_port": True, "grpc_port": port})
        os.environ[COMMIT_VARIABLE] = commit()  # for the workers
        self._context = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")
        self._context.set_forkserver_preload(PRELOADED)
        self._workers = [Worker(index, self._start) for index in range(settings.workers)]
        self._collector = WorkersCollector(lambda: [worker.state for worker in self._workers])
        self._signal: signal.Signals | None = None  # to stop
        self._stopping: Command | None = None
        self._tick_at = 0.0
        self._status = 0

    def run(self) -> int:
        """Keep the workers running until a signal to stop."""
        registry = CollectorRegistry()
        registry.register(self._collector)
        with self._signals() as wakeup, self._socket_folder():
            log_exposure(self._settings, self._choice)
            self._credentials.log_doubt()
            metrics = open_metrics(self._settings, registry, self.unready_reason, self._credentials.tls)
            self._credentials.watch()
            try:
                log.info("metrics listening", url=metrics.url)
                self._watch(wakeup)
            finally:
                for worker in self._workers:
                    worker.kill()
                metrics.close()
                self._credentials.close()
                self._reserved.close()
        log.info("all workers stopped", status=self._status)
        return self._status

    def unready_reason(self) -> str:
        """Why the service is not ready; "" if one worker is: only ready workers open the port."""
        if self._stopping:
            return "draining"
        reasons = [worker.unready_reason for worker in self._workers]
        if "" in reasons:
            return ""
        return next((reason for reason in reasons if reason), "no worker runs")

    def _watch(self, wakeup: int) -> None:
        """Start workers and restart those that exit; after a signal to stop, return once all have exited."""
        while True:
            self._act_on_signal()
            for worker in self._workers:
                if self._stopping:  # every turn, for workers that were still starting when the signal came
                    worker.stop(self._stopping)
                else:
                    worker.start_if_due()
            sentinels = [worker.sentinel for worker in self._workers if worker.sentinel is not None]
            if self._stopping and not sentinels:
                return
            wait([*sentinels, wakeup], self._seconds_to_wait())
            with contextlib.suppress(BlockingIOError):
                os.read(wakeup, 1024)
            self._tick()
            for worker in self._workers:
                if ended := worker.reap():
                    self._retire(worker, ended)

    def _seconds_to_wait(self) -> float:
        """Seconds until the next tick or the next start."""
        due = [worker.restart_at for worker in self._workers if worker.sentinel is None and not self._stopping]
        return max(0.0, min([self._tick_at, *due]) - time.monotonic())

    def _tick(self) -> None:
        """Kill the workers that are silent; once a tick."""
        if time.monotonic() < self._tick_at:
            return
        self._tick_at = time.monotonic() + TICK_SECONDS
        for worker in self._workers:
            if worker.tick():
                log.error("worker silent, killing", worker=worker.index)

    def _retire(self, worker: Worker, ended: Exit) -> None:
        """Act on a worker's exit."""
        self._collector.retire(worker.index)
        if self._stopping:
            if not ended.killed_in_startup:
                self._status = self._status or (128 - ended.status if ended.status < 0 else ended.status)
        elif ended.status == CANNOT_START:
            self._status = ended.status
            self._stopping = Command.STOP
        else:
            self._collector.restarted(ended.reason)
            log.error(
                "worker exited, restarting",
                worker=worker.index,
                status=ended.status,
                reason=ended.reason,
                pause_seconds=ended.pause_seconds,
            )

    def _act_on_signal(self) -> None:
        """Begin to stop if a signal came, once its echoes have come too."""
        if self._signal and not self._stopping:
            time.sleep(ECHO_SECONDS)
            log.info("stopping workers")
            self._stopping = Command.STOP_HURRIED if self._signal == signal.SIGINT else Command.STOP

    @contextlib.contextmanager
    def _socket_folder(self) -> Iterator[None]:
        """The folder of the workers' sockets: a worker that is killed cannot remove its own."""
        with tempfile.TemporaryDirectory(prefix="simplecnn-", ignore_cleanup_errors=True) as folder:
            self._folder = Path(folder)
            yield

    @contextlib.contextmanager
    def _signals(self) -> Iterator[int]:
        """Handle signals; yields a file descriptor that is readable after one."""

        def stop(number: int, _: object) -> None:
            if self._signal and self._stopping:
                log.error("second signal, exiting at once")
                sys.exit(128 + number)  # in the main thread, whose `finally` kills the workers
            self._signal = signal.Signals(number)  # the signal wakes _watch, which stops the workers

        def reload(_number: int, _: object) -> None:
            for worker in self._workers:
                worker.reload()

        reader, writer = os.pipe()
        os.set_blocking(reader, False)
        os.set_blocking(writer, False)
        signal.set_wakeup_fd(writer)
        signal.signal(signal.SIGTERM, stop)
        signal.signal(signal.SIGINT, stop)
        signal.signal(signal.SIGHUP, reload)
        try:
            yield reader
        finally:
            signal.set_wakeup_fd(-1)
            os.close(reader)
            os.close(writer)

    def _start(self, index: int) -> WorkerProcess:
        """Start the process of the worker with that index."""
        ours, theirs = self._context.Pipe()
        process = self._context.Process(  # type: ignore[attr-defined] # typeshed has it on the concrete contexts only
            target=run_worker,
            args=(self._worker_settings, index, theirs, self._folder),
            name=f"worker-{index}",
        )
        process.start()
        theirs.close()
        return WorkerProcess(process, ours, partial(self._collector.update, index))
