"""Bounds of the aio server on what strangers send: tokens first, no compression, slow messages, floods."""

import asyncio
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest

from service.pb import inference_pb2 as pb
from service.transport.grpc import limits, receiving
from service.transport.grpc.memory import Memory
from service.transport.grpc.receiving import Receiving
from tests.soaks.attacks import bodies, floods
from tests.soaks.attacks.catalogue import ATTACKS, TOKENLESS, tokens_checked
from tests.soaks.attacks.wire import Address
from tests.support.http2 import MODEL_INFER, RawCall
from tests.support.local_service import Gate, LocalService, local_service
from tests.support.refusal import Refusal
from tests.support.requests import infer_request, outputs_of

X = np.arange(4, dtype=np.float32).reshape(1, 4)
REQUEST = infer_request("double", x=X)
METHODS = [
    MODEL_INFER,
    "/inference.GRPCInferenceService/ModelStreamInfer",
    "/inference.GRPCInferenceService/ServerMetadata",
    "/simplecnn.v1.ImageClassifier/Classify",
    "/grpc.health.v1.Health/Check",
    "/grpc.health.v1.Health/Watch",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
]


@pytest.fixture
def memory() -> dict[str, bool]:
    """Whether memory is short."""
    return {"short": False}


@pytest.fixture
def service(toys: Path, monkeypatch: pytest.MonkeyPatch, memory: dict[str, bool]) -> Iterator[LocalService]:
    """An aio server whose address strangers reach, as it believes."""
    monkeypatch.setattr(limits, "is_local", lambda _: False)
    monkeypatch.setattr(receiving, "SLOW_SECONDS", 0.0)
    monkeypatch.setattr(Receiving, "_memory_short", lambda _, *, slow: slow and memory["short"])
    monkeypatch.setattr(Memory, "used", lambda _: (99 if memory["short"] else 10, 100))  # for streams
    with local_service(toys, "aio") as service:
        yield service


def assert_serves(service: LocalService) -> None:
    answer = service.stub.ModelInfer(REQUEST, timeout=20)
    np.testing.assert_array_equal(outputs_of(answer)["y"], 2 * X)


def test_a_caller_without_a_token_is_refused_before_its_body(toys: Path, tokens_file: Path) -> None:
    with local_service(toys, "aio", tokens_file=tokens_file) as service:
        for path in METHODS[:4]:
            with RawCall(service.address, path) as call:  # the message never comes
                assert call.status()[0] is grpc.StatusCode.UNAUTHENTICATED, path


def test_strangers_cannot_compress_and_are_told(service: LocalService) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        service.stub.ModelInfer(REQUEST, compression=grpc.Compression.Gzip, timeout=20)
    error = Refusal(caught.value)
    assert error.code is grpc.StatusCode.UNIMPLEMENTED and "gzip" in error.text
    assert_serves(service)


@pytest.mark.parametrize("path", METHODS)
def test_slow_messages_are_refused_while_memory_is_short(
    service: LocalService, path: str, memory: dict[str, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    with RawCall(service.address, path) as slow:
        slow.send_part(1000, of=60 * 2**20)
        memory["short"] = True
        code, text = slow.status()
    assert (code, "memory is short" in text) == (grpc.StatusCode.RESOURCE_EXHAUSTED, True)
    monkeypatch.setattr(receiving, "SLOW_SECONDS", 10.0)
    assert_serves(service)


def test_a_refused_stream_answers_what_it_accepted(gate: Gate, service: LocalService, memory: dict[str, bool]) -> None:
    gate.hold()
    stopped = threading.Event()

    def requests() -> Iterator[pb.ModelInferRequest]:
        yield from [REQUEST] * 10
        stopped.wait(20)

    answers = service.stub.ModelStreamInfer(requests(), timeout=20)
    gate.wait_for(1)
    memory["short"] = True
    time.sleep(0.3)  # memory is looked at every 25 ms
    gate.open()
    seen: list[pb.ModelStreamInferResponse] = []
    with pytest.raises(grpc.RpcError) as caught:
        seen.extend(answers)  # keeps those before the error
    stopped.set()
    assert (len(seen), Refusal(caught.value).code) == (10, grpc.StatusCode.RESOURCE_EXHAUSTED)


def test_refusals_are_counted_and_callers_that_hang_up_are_not(service: LocalService, memory: dict[str, bool]) -> None:
    codes = service.server.handler.unrouted_statistics.codes
    for _ in range(20):
        with RawCall(service.address, MODEL_INFER) as call:
            call.send_part(1000, of=2000)
    assert_serves(service)
    assert not codes
    memory["short"] = True
    with RawCall(service.address, MODEL_INFER) as slow:
        slow.send_part(1000, of=2000).status()
    assert codes == {"RESOURCE_EXHAUSTED": 1}


def test_a_message_must_arrive_in_time(service: LocalService, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receiving, "RECEIVE_SECONDS", 0.2)
    with RawCall(service.address, MODEL_INFER) as slow:
        slow.send_part(1000, of=2000)
        assert slow.status()[0] is grpc.StatusCode.DEADLINE_EXCEEDED
    assert_serves(service)


@pytest.mark.parametrize("name", [name for name in ATTACKS if not name.startswith("slow-")])
def test_the_service_serves_after_an_attack(
    service: LocalService, name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The attacks of `make attack`, a fraction of a second each."""
    for module, number, value in (
        (floods, "SECONDS", 0.3),
        (floods, "IDLE_CONNECTIONS", 100),
        (floods, "IDLE_SECONDS", 0.1),
        (bodies, "BOMB_BYTES", 2**27),
        (bodies, "LARGE", 2),
        (bodies, "SLOW_BYTES", 2**20),
        (bodies, "ANSWER_SECONDS", 0.3),
    ):
        monkeypatch.setattr(module, number, value)
    host, port = service.address.split(":")
    asyncio.run(ATTACKS[name](Address(host, int(port))))
    assert_serves(service)
    assert len(caplog.records) < 10


@pytest.mark.parametrize("name", TOKENLESS)
@pytest.mark.parametrize("checks", [True, False])
def test_an_attack_without_a_valid_token_notices_whether_tokens_are_checked(
    toys: Path, tokens_file: Path, monkeypatch: pytest.MonkeyPatch, name: str, checks: bool
) -> None:
    monkeypatch.setattr(bodies, "SLOW_BYTES", 2**20)
    monkeypatch.setattr(bodies, "ANSWER_SECONDS", 0.3)
    with local_service(toys, "aio", tokens_file=tokens_file if checks else None) as service:
        host, port = service.address.split(":")
        outcome = asyncio.run(ATTACKS[name](Address(host, int(port))))
    assert tokens_checked(outcome, behind_edge=False) is checks
