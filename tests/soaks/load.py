"""Load of one kind or the other, and what came of it."""

import json
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from service.client import SERVICE_CONFIG
from service.pb import inference_pb2 as pb
from service.pb.inference_pb2_grpc import GRPCInferenceServiceStub
from tests.support.requests import infer_request

ROOT = Path(__file__).parents[2]
MODEL = "mnist-simplecnn"


@dataclass
class Outcome:
    """What became of the calls: seconds of each by status, and texts of those that failed."""

    seconds: dict[str, list[float]] = field(default_factory=dict)
    texts: Counter[str] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, seconds: float, error: grpc.RpcError | None) -> None:
        """Count a call."""
        code = error.code().name if error else "OK"
        with self.lock:
            self.seconds.setdefault(code, []).append(seconds)
            if error:
                self.texts[f"{code}: {error.details()}"] += 1

    def count(self, code: str = "OK") -> int:
        """How many ended with that status."""
        return len(self.seconds.get(code, []))

    @property
    def failed(self) -> int:
        """How many did not end well."""
        return sum(len(times) for code, times in self.seconds.items() if code != "OK")

    def percentile(self, percent: float, code: str = "OK") -> float:
        """In milliseconds."""
        times = sorted(self.seconds.get(code, []))
        return 1e3 * times[min(len(times) - 1, math.ceil(len(times) * percent / 100) - 1)] if times else math.nan


def mixed_requests() -> list[pb.ModelInferRequest]:
    """Real images, in requests of 1, 2, 5 and 8."""
    with np.load(ROOT / "training/samples/mnist-sample.npz") as arrays:
        images = arrays["test_images"][..., None]
    sizes = (1, 1, 1, 2, 1, 5, 1, 8)
    starts = np.cumsum((0, *sizes))
    return [infer_request(MODEL, "", images=images[a:b]) for a, b in pairwise(starts)]


def channel(address: str, *, retry: bool) -> grpc.Channel:
    """A connection of its own, with the client's retry policy or without."""
    options: list[tuple[str, Any]] = [("grpc.use_local_subchannel_pool", 1)]
    if retry:
        options.append(("grpc.service_config", json.dumps(SERVICE_CONFIG)))
    return grpc.insecure_channel(address, options)


class ConstantLoad:
    """So many clients, each with a connection of its own that calls `rate` times a second, or as fast as it can."""

    def __init__(self, address: str, clients: int, *, rate: float = math.inf, retry: bool = False) -> None:
        self.outcome = Outcome()
        self._stop = threading.Event()
        requests = mixed_requests()
        self._threads = [
            threading.Thread(target=self._run, args=(channel(address, retry=retry), requests, index, rate))
            for index in range(clients)
        ]

    def __enter__(self) -> "ConstantLoad":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def fresh(self) -> Outcome:
        """Begin to count anew, and return what was counted before."""
        before, self.outcome = self.outcome, Outcome()
        return before

    def _run(self, connection: grpc.Channel, requests: Sequence[pb.ModelInferRequest], index: int, rate: float) -> None:
        stub = GRPCInferenceServiceStub(connection)
        number, due = index, time.perf_counter()
        while not self._stop.is_set():
            error = None
            started = max(due, time.perf_counter()) if rate == math.inf else due
            try:
                stub.ModelInfer(requests[number % len(requests)], timeout=30)
            except grpc.RpcError as caught:
                error = caught
            # From when it was due, so that a stall counts for every call that it held up.
            self.outcome.add(time.perf_counter() - started, error)
            number += 1
            due = max(due + 1 / rate, time.perf_counter()) if rate == math.inf else due + 1 / rate
            if (pause := due - time.perf_counter()) > 0:
                self._stop.wait(pause)
        connection.close()


def report(name: str, checks: dict[str, tuple[str, bool]]) -> int:
    """Print each figure and whether it is as promised; the exit status."""
    width = max(map(len, checks))
    for what, (figure, good) in checks.items():
        print(f"  {what:{width}}  {figure:>24}  {'ok' if good else 'NOT AS PROMISED'}")
    good = all(good for _, good in checks.values())
    print(f"{name}: {'all as promised' if good else 'FAILED'}")
    return 0 if good else 1


def once_ready(condition: Callable[[], bool], what: str, limit: float = 60.0) -> None:
    """Wait, and say what for if it never happens."""
    end = time.monotonic() + limit
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(what)
        time.sleep(0.05)
