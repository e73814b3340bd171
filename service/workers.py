"""Many processes on one port: a supervisor that starts, watches, drains and restarts them, and speaks for all.

Python computes on one core a process, so a machine of many cores runs `--workers N`: each worker is a whole service
with the gRPC port shared (SO_REUSEPORT), and the kernel spreads connections over them. The supervisor serves /metrics,
/livez and /readyz, for which it asks the workers over a pipe each; it never touches a request.

Owns the workers' lives and their merged metrics. Does not own: serving (server.py), which knows nothing of this.
"""

import contextlib
import itertools
import multiprocessing
import multiprocessing.synchronize
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait

import structlog
from prometheus_client.core import Metric
from prometheus_client.registry import Collector, CollectorRegistry

from service import logs, server
from service.settings import Settings

log = structlog.get_logger(__name__)

# How long a worker may take to say how it is, in seconds; one that does not is left out.
ANSWER_SECONDS = 2.0
# A worker that ends sooner than this is started again after a pause, which doubles up to the longest.
SHORT_LIFE, FIRST_PAUSE, LONGEST_PAUSE = 30.0, 0.25, 30.0

METRICS, READY = "metrics", "ready"  # what a worker is asked

# A metric on its way through a pipe: name, documentation, type, and its samples.
Sample = tuple[str, dict[str, str], float]
Family = tuple[str, str, str, list[Sample]]

# Gauges of workers that add up, and those of which the least counts; of others the greatest does.
SUMMED = (
    "inference_queue_rows",
    "inference_queue_limit_rows",
    "process_resident_memory_bytes",
    "process_virtual_memory_bytes",
    "process_open_fds",
)
LEAST = ("inference_model_ready", "process_start_time_seconds")


def serve(settings: Settings) -> int:
    """Run the supervisor and its workers to their end and return the exit status."""
    try:
        return Supervisor(settings).run()
    except server.CannotStart as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


class Supervisor:
    """The parent of `settings.workers` processes."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._reserved, port = server.reserve_port(settings)
        self._worker_settings = settings.model_copy(update={"workers": 1, "reuse_port": True, "grpc_port": port})
        self._context = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")
        self._context.set_forkserver_preload(["service.server", "service.fronts.native"])
        self._workers = [Worker(index, self._start) for index in range(settings.workers)]
        self._collector = WorkersCollector(self._workers)
        self._stopping: signal.Signals | None = None
        self._status = 0

    def run(self) -> int:
        """Keep the workers running until a signal says stop."""
        registry = CollectorRegistry()
        registry.register(self._collector)
        metrics = server.open_metrics(self._settings, registry, self.not_ready_because)
        try:
            with self._signals() as awoken:
                log.info("metrics", url=metrics.url)
                self._watch(awoken)
        finally:
            for worker in self._workers:
                worker.kill()
            metrics.close()
            self._reserved.close()
        log.info("all workers stopped", status=self._status)
        return self._status

    def not_ready_because(self) -> str:
        """Why no worker would answer; "" if one does: the port belongs to those that do."""
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

    def _watch(self, awoken: int) -> None:
        """Start the workers and start again what ends, until all are to end and have."""
        while True:
            for worker in self._workers:
                if worker.sentinel is None and not self._stopping and worker.due <= time.monotonic():
                    worker.start()
            if self._stopping:  # also those that were being started when the signal came
                for worker in self._workers:
                    worker.stop(self._stopping)
            running = [worker for worker in self._workers if worker.sentinel is not None]
            if self._stopping and not running:
                return
            now = time.monotonic()
            due = [worker.due for worker in self._workers if worker.sentinel is None and not self._stopping]
            sentinels = [worker.sentinel for worker in running if worker.sentinel is not None]
            wait([*sentinels, awoken], max(0.0, min(due) - now) if due else None)
            with contextlib.suppress(BlockingIOError):
                os.read(awoken, 1024)
            for worker in running:
                self._look_at(worker)

    def _look_at(self, worker: "Worker") -> None:
        status = worker.ended()
        if status is None:
            return
        self._collector.retire(worker)
        pause = worker.rest()
        if self._stopping:
            if not worker.cut_short:
                self._status = self._status or status
        elif status == server.CANNOT_START:
            self._status = status
            self._stopping = signal.SIGTERM
        else:
            log.error("a worker ended; it is started again", worker=worker.index, status=status, seconds=pause)

    @contextlib.contextmanager
    def _signals(self) -> Iterator[int]:
        """Act on signals; gives the file descriptor that is readable after one."""

        def stop(number: int, _: object) -> None:
            if self._stopping:
                log.error("a second signal: ending at once")
                for worker in self._workers:
                    worker.kill()
                os._exit(128 + number)
            log.info("stopping the workers")
            self._stopping = signal.Signals(number)  # the main loop, which this awakes, does the rest

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

    def _start(self, index: int) -> "Running":
        ours, theirs = self._context.Pipe()
        there = self._context.Event()
        process = self._context.Process(  # type: ignore[attr-defined] # typeshed has it on the concrete contexts only
            target=_work, args=(self._worker_settings, index, theirs, there), name=f"worker-{index}"
        )
        process.start()
        theirs.close()
        return Running(process, ours, there, time.monotonic())


@dataclass(frozen=True)
class Running:
    """A process, the pipe over which it is asked, and whether it is there: it acts on signals, but has no calls yet."""

    process: multiprocessing.process.BaseProcess
    pipe: Connection
    there: multiprocessing.synchronize.Event
    since: float


class Worker:
    """One place in the team, whichever process fills it."""

    def __init__(self, index: int, start: Callable[[int], Running]) -> None:
        self.index = index
        self.due = 0.0  # when to start it again
        self._start = start
        self._running: Running | None = None
        self._pause = FIRST_PAUSE
        self._told = False  # to stop
        self.cut_short = False  # ended before it was there
        self._asking = threading.Lock()
        self._questions = itertools.count()

    @property
    def sentinel(self) -> int | None:
        """What becomes readable when its process ends; None while it has none."""
        return None if self._running is None else self._running.process.sentinel

    def start(self) -> None:
        """Give it a process."""
        self._running = self._start(self.index)
        self._told = False

    def ended(self) -> int | None:
        """The exit status of a process that has ended, negative for a signal; None while it runs."""
        return None if self._running is None else self._running.process.exitcode

    def rest(self) -> float:
        """Give up the process that ended; how many seconds to wait before the next."""
        with self._asking:
            assert self._running is not None
            lived = time.monotonic() - self._running.since
            self._running.pipe.close()
            self._running = None
        pause = self._pause = FIRST_PAUSE if lived > SHORT_LIFE else min(2 * self._pause, LONGEST_PAUSE)
        self.due = time.monotonic() + pause
        return pause

    def ask(self, question: str) -> object:
        """What the process answers; None if it does not in time."""
        with self._asking:
            if self._running is None:
                return None
            pipe, number = self._running.pipe, next(self._questions)
            with contextlib.suppress(OSError, EOFError):
                pipe.send((number, question))
                limit = time.monotonic() + ANSWER_SECONDS
                while pipe.poll(max(0.0, limit - time.monotonic())):
                    answered, answer = pipe.recv()
                    if answered == number:  # else it comes too late for an earlier question
                        return answer
            return None

    def stop(self, number: signal.Signals) -> None:
        """Tell the process to stop, once: the second time it would end at once. One that starts yet is ended."""
        if self._told or self._running is None:
            return
        self._told = True
        if self._running.there.is_set():
            self.signal(number)
        else:
            self.cut_short = True
            self._running.process.kill()

    def signal(self, number: signal.Signals) -> None:
        """Send the process a signal."""
        running = self._running
        if running is not None and running.process.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(running.process.pid, number)

    def kill(self) -> None:
        """End the process at once."""
        if self._running is not None:
            self._running.process.kill()
            self._running.process.join()


class WorkersCollector(Collector):
    """The metrics of all workers as one service's, with what those counted that have ended."""

    def __init__(self, workers: Sequence[Worker]) -> None:
        self._workers = workers
        self._lock = threading.Lock()  # guards both of these; scrapes come on threads of their own
        self._last: dict[int, list[Family]] = {}  # by worker: what it said last
        self._retired: list[Family] = []  # counters of processes that have ended, as they said last

    def collect(self) -> Iterator[Metric]:
        """Every family once."""
        with self._lock:
            for worker in self._workers:
                families = worker.ask(METRICS)
                if isinstance(families, list):
                    self._last[worker.index] = families
            metrics = merged([self._retired, *self._last.values()])
        yield from metrics

    def retire(self, worker: Worker) -> None:
        """Keep what a process counted that has ended: a counter of the service must not fall."""
        with self._lock:
            families = self._last.pop(worker.index, [])
            counts = [family for family in families if family[2] in ("counter", "histogram")]
            self._retired = _families(merged([self._retired, counts]))


def merged(sources: Iterable[Sequence[Family]]) -> list[Metric]:
    """One of each family: counts are added, of gauges the sum, the least or the greatest is taken."""
    result: dict[str, Metric] = {}
    values: dict[tuple[str, str, tuple[tuple[str, str], ...]], float] = {}
    for families in sources:
        for name, documentation, kind, samples in families:
            result.setdefault(name, Metric(name, documentation, kind))
            for sample, labels, value in samples:
                key = (name, sample, tuple(sorted(labels.items())))
                known = values.get(key)
                values[key] = value if known is None else _rule(name, kind)([known, value])
    for (name, sample, labels_of), value in values.items():
        result[name].add_sample(sample, dict(labels_of), value)
    return list(result.values())


def _rule(name: str, kind: str) -> Callable[[Iterable[float]], float]:
    if kind in ("counter", "histogram") or name in SUMMED:
        return sum
    return min if name in LEAST else max


# --- in the worker ---


def _work(settings: Settings, index: int, pipe: Connection, there: multiprocessing.synchronize.Event) -> None:
    """A worker's life; ends the process."""
    os.setsid()  # Ctrl-C is for the supervisor, which then asks us to stop
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until the server acts on it; it loads what there is anyway
    logs.configure(settings.log_format, worker=index)

    def report(registry: CollectorRegistry, not_ready_because: Callable[[], str]) -> None:
        threading.Thread(target=_answer, args=(pipe, registry, not_ready_because), name="report", daemon=True).start()
        there.set()

    sys.exit(server.serve(settings, report=report))


def _answer(pipe: Connection, registry: CollectorRegistry, not_ready_because: Callable[[], str]) -> None:
    """Answer the supervisor's questions; stop the worker if there is nobody any more to ask them."""
    try:
        while True:
            number, question = pipe.recv()
            pipe.send((number, not_ready_because() if question == READY else _families(registry.collect())))
    except (EOFError, OSError):
        log.error("the supervisor is gone")
        os.kill(os.getpid(), signal.SIGTERM)


def _families(metrics: Iterable[Metric]) -> list[Family]:
    return [
        (metric.name, metric.documentation, metric.type, [(s.name, dict(s.labels), s.value) for s in metric.samples])
        for metric in metrics
    ]
