"""The supervisor of `--workers N`: starts, watches, drains and restarts workers, and answers probes for all of them.

A Python process computes on one core, so a machine with many cores runs several workers. Each is a whole service with
the gRPC port shared (SO_REUSEPORT); the kernel spreads connections over them. The supervisor serves /metrics, /livez
and /readyz, and asks the workers for the answers over their control pipes. It handles no requests.

Owns the workers' life cycle and the merged metrics. Not here: serving (server.py), which does not know of workers.
"""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from multiprocessing.connection import wait

import structlog
from prometheus_client.core import Metric
from prometheus_client.registry import Collector, CollectorRegistry

from service.app.settings import Settings
from service.app.startup import CANNOT_START, CannotStart, open_metrics, reserve_port
from service.app.worker import METRICS, READY, Worker, WorkerProcess, run_worker
from service.core.version import COMMIT_VARIABLE, commit
from service.telemetry.merge import Family, families, merged

log = structlog.get_logger(__name__)


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
        self._reserved, port = reserve_port(settings)
        self._worker_settings = settings.model_copy(update={"workers": 1, "reuse_port": True, "grpc_port": port})
        os.environ[COMMIT_VARIABLE] = commit()  # for the workers
        self._context = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")
        self._context.set_forkserver_preload(["service.app.server", "service.transport.grpc.native_server"])
        self._workers = [Worker(index, self._start) for index in range(settings.workers)]
        self._collector = WorkersCollector(self._workers)
        self._stopping: signal.Signals | None = None
        self._status = 0

    def run(self) -> int:
        """Keep the workers running until a signal to stop."""
        registry = CollectorRegistry()
        registry.register(self._collector)
        metrics = open_metrics(self._settings, registry, self.unready_reason)
        try:
            with self._signals() as wakeup:
                log.info("metrics listening", url=metrics.url)
                self._watch(wakeup)
        finally:
            for worker in self._workers:
                worker.kill()
            metrics.close()
            self._reserved.close()
        log.info("all workers stopped", status=self._status)
        return self._status

    def unready_reason(self) -> str:
        """Why the service is not ready; "" if one worker is: only ready workers open the port."""
        if self._stopping:
            return "draining"
        reasons = []
        for worker in self._workers:
            reason = worker.ask(READY)
            if reason == "":
                return ""
            if reason is not None:
                reasons.append(str(reason))
        return reasons[0] if reasons else "no worker runs"

    def _watch(self, wakeup: int) -> None:
        """Start workers and restart those that exit; after a signal to stop, return once all have exited."""
        while True:
            for worker in self._workers:
                if worker.sentinel is None and not self._stopping and worker.restart_at <= time.monotonic():
                    worker.start()
            if self._stopping:  # every turn, for workers that were still starting when the signal came
                for worker in self._workers:
                    worker.stop(self._stopping)
            running = [worker for worker in self._workers if worker.sentinel is not None]
            if self._stopping and not running:
                return
            now = time.monotonic()
            due = [worker.restart_at for worker in self._workers if worker.sentinel is None and not self._stopping]
            sentinels = [worker.sentinel for worker in running if worker.sentinel is not None]
            wait([*sentinels, wakeup], max(0.0, min(due) - now) if due else None)
            with contextlib.suppress(BlockingIOError):
                os.read(wakeup, 1024)
            for worker in running:
                self._check(worker)

    def _check(self, worker: Worker) -> None:
        """Act on a worker's exit, if it has exited."""
        status = worker.exit_status()
        if status is None:
            return
        self._collector.retire(worker)
        pause = worker.forget()
        if self._stopping:
            if not worker.killed_in_startup:
                self._status = self._status or status
        elif status == CANNOT_START:
            self._status = status
            self._stopping = signal.SIGTERM
        else:
            log.error("worker exited, restarting", worker=worker.index, status=status, pause_seconds=pause)

    @contextlib.contextmanager
    def _signals(self) -> Iterator[int]:
        """Handle signals; yields a file descriptor that is readable after one."""

        def stop(number: int, _: object) -> None:
            if self._stopping:
                log.error("second signal, exiting at once")
                for worker in self._workers:
                    worker.kill()
                os._exit(128 + number)
            log.info("stopping workers")
            self._stopping = signal.Signals(number)  # the signal wakes _watch, which stops the workers

        def reload(number: int, _: object) -> None:
            for worker in self._workers:
                worker.signal(signal.Signals(number))

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
        supervisor_end, worker_end = self._context.Pipe()
        handles_signals = self._context.Event()
        process = self._context.Process(  # type: ignore[attr-defined] # typeshed has it on the concrete contexts only
            target=run_worker, args=(self._worker_settings, index, worker_end, handles_signals), name=f"worker-{index}"
        )
        process.start()
        worker_end.close()
        return WorkerProcess(process, supervisor_end, handles_signals, time.monotonic())


class WorkersCollector(Collector):
    """The metrics of all workers as one service's, including the counts of workers that exited."""

    def __init__(self, workers: Sequence[Worker]) -> None:
        self._workers = workers
        self._lock = threading.Lock()  # guards _latest and _retired; each scrape has its own thread
        self._latest: dict[int, list[Family]] = {}  # each worker's latest answer
        self._retired: list[Family] = []  # counters of processes that exited, as last reported

    def collect(self) -> Iterator[Metric]:
        """Every metric once."""
        with self._lock:
            for worker in self._workers:
                answer = worker.ask(METRICS)
                if isinstance(answer, list):
                    self._latest[worker.index] = answer
            metrics = merged([self._retired, *self._latest.values()])
        yield from metrics

    def retire(self, worker: Worker) -> None:
        """Keep the counts of a process that exited: a counter of the service must not fall."""
        with self._lock:
            latest = self._latest.pop(worker.index, [])
            counts = [family for family in latest if family[2] in ("counter", "histogram")]
            self._retired = families(merged([self._retired, counts]))
