"""The Python client against servers whose queue is full, or that refuse its message for ever."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import pytest

from service.client import Client
from service.client.retries import Retries
from tests.support.local_service import Gate, local_service
from tests.support.models import add_version, cast_model
from tests.support.waiting import wait_until

IMAGES = np.arange(4, dtype=np.uint8).reshape(1, 4)
QUEUE_OF_ONE = "max_batch_size: 1 dynamic_batching { default_queue_policy { max_queue_size: 1 } }"


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    add_version(tmp_path, "cast", cast_model(), config=QUEUE_OF_ONE)
    return tmp_path


def test_a_call_that_a_full_queue_refuses_is_answered_once_there_is_room(
    repository: Path, grpc_server: str, gate: Gate
) -> None:
    waits: list[float] = []
    with local_service(repository, grpc_server) as service, ThreadPoolExecutor(2) as pool:
        batcher = service.server.registry.get("cast").batcher

        def make_room(seconds: float) -> None:
            waits.append(seconds)
            gate.open()
            wait_until(lambda: batcher.pending_rows == 0, "the queue is empty")

        with Client(service.address, retries=Retries(sleep=make_room)) as client:
            gate.hold()
            running = pool.submit(client.predict, "cast", IMAGES)
            gate.wait_for(1)
            waiting = pool.submit(client.predict, "cast", IMAGES)
            wait_until(lambda: batcher.queued_rows == 1, "the queue is full")
            for answer in (client.predict("cast", IMAGES), running.result(), waiting.result()):
                np.testing.assert_array_equal(answer, IMAGES)
    assert len(waits) == 1 and waits[0] >= Retries().shortest


def test_a_message_that_is_too_large_is_not_sent_again(repository: Path, grpc_server: str) -> None:
    def sleep(seconds: float) -> None:
        raise AssertionError(f"the client waits {seconds} s")

    with (
        local_service(repository, grpc_server, max_message_bytes=1024) as service,
        Client(service.address, retries=Retries(sleep=sleep)) as client,
        pytest.raises(grpc.RpcError) as caught,
    ):
        client.predict("cast", np.zeros((512, 4), np.uint8))
    assert isinstance(caught.value, grpc.Call)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
