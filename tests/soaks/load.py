"""Constant load on a service, the outcome of its calls, and the report of a soak."""

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
    """The outcome of all calls: durations in seconds by status name, and counts of error texts."""

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
        """Number of calls that ended with status `code`."""
        return len(self.seconds.get(code, []))

    @property
    def failed(self) -> int:
        """Number of calls that ended with another status than OK."""
        return sum(len(times) for code, times in self.seconds.items() if code != "OK")

    def percentile(self, percent: float, code: str = "OK") -> float:
        """A percentile of the durations with status `code`, in milliseconds; NaN if there are none."""
        times = sorted(self.seconds.get(code, []))
        return 1e3 * times[min(len(times) - 1, math.ceil(len(times) * percent / 100) - 1)] if times else math.nan


def mixed_requests() -> list[pb.ModelInferRequest]:
    """Requests with 1, 2, 5 and 8 real images."""
    with np.load(ROOT / "training/data/samples/mnist-sample.npz") as arrays:
        images = arrays["test_images"][..., None]
    sizes = (1, 1, 1, 2, 1, 5, 1, 8)
    starts = np.cumsum((0, *sizes))
    return [infer_request(MODEL, "", images=images[start:end]) for start, end in pairwise(starts)]


def channel(address: str, *, retry: bool, credentials: grpc.ChannelCredentials | None = None) -> grpc.Channel:
    """A channel with a connection of its own, with or without the client library's retry policy and TLS."""
    options: list[tuple[str, Any]] = [("grpc.use_local_subchannel_pool", 1)]
    if retry:
        options.append(("grpc.service_config", json.dumps(SERVICE_CONFIG)))
    if credentials:
        return grpc.secure_channel(address, credentials, options)
    return grpc.insecure_channel(address, options)


class ConstantLoad:
    """`clients` threads, each with a connection of its own and `rate` calls per second, or as many as it can."""

    def __init__(
        self,
        address: str,
        clients: int,
        *,
        rate: float = math.inf,
        retry: bool = False,
        credentials: grpc.ChannelCredentials | None = None,
    ) -> None:
        self.outcome = Outcome()
        self._stop = threading.Event()
        requests = mixed_requests()
        self._threads = [
            threading.Thread(
                target=self._run,
                args=(channel(address, retry=retry, credentials=credentials), requests, index, rate),
            )
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

    def reset(self) -> Outcome:
        """Start a new outcome and return the previous one."""
        previous, self.outcome = self.outcome, Outcome()
        return previous

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
            # Measured from the due time, so that a stall counts for every call that it delays.
            self.outcome.add(time.perf_counter() - started, error)
            number += 1
            due = max(due + 1 / rate, time.perf_counter()) if rate == math.inf else due + 1 / rate
            if (pause := due - time.perf_counter()) > 0:
                self._stop.wait(pause)
        connection.close()


def report(name: str, checks: dict[str, tuple[str, bool]]) -> int:
    """Print each check with its value; return the exit status, 0 if all pass."""
    width = max(map(len, checks))
    for check, (value, passed) in checks.items():
        print(f"  {check:{width}}  {value:>24}  {'ok' if passed else 'FAILED'}")
    all_passed = all(passed for _, passed in checks.values())
    print(f"{name} server: {'passed' if all_passed else 'FAILED'}")
    return 0 if all_passed else 1


def once_ready(condition: Callable[[], bool], what: str, limit: float = 60.0) -> None:
    """Wait until `condition` holds; TimeoutError with `what` after `limit` seconds."""
    end = time.monotonic() + limit
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(what)
        time.sleep(0.05)
