"""Normal calls that an attack must not disturb. Not here: attacks (catalogue.py), what is a failure (__main__.py)."""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np

from service.pb import inference_pb2 as pb
from service.pb.inference_pb2_grpc import GRPCInferenceServiceStub
from tests.soaks.attacks.wire import Address
from tests.support.requests import infer_request

PAUSE = 0.05  # seconds between the calls of the load
STREAM_PAUSE = 0.5  # seconds between the messages of its stream
CALL_SECONDS, STREAM_SECONDS = 30.0, 300.0
MODEL, SHAPE = "mnist-simplecnn", (1, 28, 28, 1)


class Load:
    """Callers meanwhile: one on a connection that stays, one with a new connection for each call, one with a stream."""

    def __init__(self, address: Address) -> None:
        self.calls, self.slowest = 0, 0.0
        self.failures: Counter[str] = Counter()
        self._address = address
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(stays,)) for stays in (True, False)]
        self._threads.append(threading.Thread(target=self._stream))

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self, stays: bool) -> None:
        channel = open_channel(self._address)
        while not self._stop.wait(PAUSE):
            if not stays:
                channel.close()
                channel = open_channel(self._address)
            self.calls += 1
            try:
                self.slowest = max(self.slowest, timed_call(channel, self._address))
            except grpc.RpcError as error:
                self.failures[name_of(error)] += 1
        channel.close()

    def _stream(self) -> None:
        """One stream from the first message to the end of the attack."""
        sent = answered = 0

        def requests() -> Iterator[pb.ModelInferRequest]:
            nonlocal sent
            while True:
                self.calls += 1
                sent += 1
                yield _request()
                if self._stop.wait(STREAM_PAUSE):
                    return

        with open_channel(self._address) as channel:
            try:
                answers = GRPCInferenceServiceStub(channel).ModelStreamInfer(
                    requests(), timeout=STREAM_SECONDS, metadata=_metadata(self._address)
                )
                for answer in answers:
                    answered += 1
                    if answer.error_message:
                        self.failures[f"stream: {answer.error_message}"[:60]] += 1
            except grpc.RpcError as error:
                self.failures[f"stream: {name_of(error)}"] += 1
        if answered < sent:
            self.failures["stream: no answer"] += sent - answered


def open_channel(address: Address) -> grpc.Channel:
    """A channel with a connection of its own."""
    target, options = f"{address.host}:{address.port}", [("grpc.use_local_subchannel_pool", 1)]
    if not address.ca:
        return grpc.insecure_channel(target, options)
    return grpc.secure_channel(target, grpc.ssl_channel_credentials(Path(address.ca).read_bytes()), options)


def timed_call(channel: grpc.Channel, address: Address) -> float:
    """Seconds of one call, which must be answered."""
    request, metadata = _request(), _metadata(address)
    began = time.perf_counter()
    GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=CALL_SECONDS, metadata=metadata)
    return time.perf_counter() - began


def _request() -> pb.ModelInferRequest:
    return infer_request(MODEL, images=np.zeros(SHAPE, np.uint8))


def _metadata(address: Address) -> list[tuple[str, str]]:
    return [("authorization", address.authorization)] if address.authorization else []


def name_of(error: grpc.RpcError) -> str:
    """Code and text of an error, cut."""
    return f"{error.code().name} {error.details()}"[:60]
