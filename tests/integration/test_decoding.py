"""Classify under load, on both gRPC servers: turns of different calls, deadlines, cancellation, limits, metrics."""

import io
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from service.core.spec import Arrays
from service.inference import classification
from service.inference.picture_work import PictureWork
from service.pb import classifier_pb2 as pb
from service.pb import classifier_pb2_grpc
from tests.support.local_service import LocalService, local_service
from tests.support.refusal import Refusal
from tests.support.waiting import WAIT, wait_until

MODEL = "mnist-simplecnn"
TestImages = tuple[NDArray[np.uint8], NDArray[np.uint8]]


class SlowDecoding:
    """Stands before the decoding of every file: each waits to be let through, and then takes `seconds` more."""

    def __init__(self) -> None:
        self._decode = PictureWork.decode
        self._permits = threading.Semaphore(0)
        self._lock = threading.Lock()
        self.began = 0
        self.seconds = 0.0

    def decode(self, work: PictureWork) -> Arrays:
        """What PictureWork.decode does, later."""
        with self._lock:
            self.began += 1
        assert self._permits.acquire(timeout=WAIT)
        time.sleep(self.seconds)
        return self._decode(work)

    def let_through(self, pictures: int) -> None:
        self._permits.release(pictures)


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Iterator[SlowDecoding]:
    slow = SlowDecoding()
    monkeypatch.setattr(PictureWork, "decode", lambda work: slow.decode(work))
    yield slow
    slow.let_through(10_000)


@pytest.fixture
def service(published: Path, grpc_server: str, slow: SlowDecoding) -> Iterator[LocalService]:
    with local_service(published, grpc_server) as service:
        yield service
        slow.let_through(10_000)


@pytest.fixture
def good(test_images: TestImages) -> pb.Image:
    file = io.BytesIO()
    Image.fromarray(test_images[0][0][:, :, 0]).save(file, "PNG")
    return pb.Image(encoded=file.getvalue())


def begin(service: LocalService, images: list[pb.Image], timeout: float = 20 * WAIT) -> Any:
    stub = classifier_pb2_grpc.ImageClassifierStub(service.channel)
    return stub.Classify.future(pb.ClassifyRequest(model_name=MODEL, images=images), timeout=timeout)


def test_a_picture_beside_200_of_another_call_waits_for_two_of_them(
    service: LocalService, slow: SlowDecoding, good: pb.Image
) -> None:
    many = begin(service, [good] * 200)
    wait_until(lambda: slow.began == 2, "the first pictures are decoded")
    one = begin(service, [good])
    wait_until(lambda: service.server.decoder.waiting == 199, "the other call's picture waits")
    slow.let_through(4)  # the two that are decoded, the next of that call, and this one
    assert one.result(WAIT).results[0].classes
    assert service.server.decoder.waiting > 190 and not many.done()
    slow.let_through(200)
    assert all(result.classes for result in many.result(WAIT).results)


def test_a_call_that_is_cancelled_or_expires_leaves_its_pictures_undecoded(
    service: LocalService, slow: SlowDecoding, good: pb.Image
) -> None:
    decoder = service.server.decoder
    cancelled = begin(service, [good] * 100)
    wait_until(lambda: slow.began == 2, "the first pictures are decoded")
    expires = begin(service, [good] * 50, timeout=2.0)
    wait_until(lambda: decoder.waiting == 148, "the others wait")
    assert expires.exception(WAIT).code() is grpc.StatusCode.DEADLINE_EXCEEDED
    wait_until(lambda: decoder.waiting == 98, "the call that expired is dropped")
    cancelled.cancel()
    wait_until(lambda: decoder.waiting == 0, "the call that was cancelled is dropped")
    slow.let_through(3)
    assert begin(service, [good]).result(WAIT).results[0].classes
    assert slow.began == 3
    codes = service.server.registry.get(MODEL).statistics.codes
    assert (codes["DEADLINE_EXCEEDED"], codes["CANCELLED"]) == (50, 100)


def test_a_deadline_that_other_calls_exceed_is_refused_on_arrival(
    service: LocalService, slow: SlowDecoding, good: pb.Image
) -> None:
    slow.seconds = 0.2
    slow.let_through(1)
    assert begin(service, [good]).result(WAIT).results[0].classes
    many = begin(service, [good] * 100)
    wait_until(lambda: slow.began == 3, "the first pictures are decoded")
    late = Refusal(begin(service, [good] * 100, timeout=5).exception(WAIT))
    assert late.code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert "the deadline cannot be met: 98 pictures are decoded before" in late.text
    assert service.server.registry.get(MODEL).statistics.codes["DEADLINE_EXCEEDED"] == 100
    assert service.server.decoder.waiting == 98
    slow.seconds = 0.0
    slow.let_through(200)
    assert begin(service, [good], timeout=5).result(WAIT).results[0].classes, "one picture waits for one other"
    assert many.result(WAIT).results


def test_calls_of_many_images_are_refused_before_calls_of_few(
    service: LocalService, slow: SlowDecoding, good: pb.Image
) -> None:
    many = [begin(service, [good] * 256) for _ in range(3)]
    wait_until(lambda: service.server.decoder.waiting == 766, "three calls are in progress")
    refused = Refusal(begin(service, [good] * 256).exception(WAIT))
    assert refused.code is grpc.StatusCode.RESOURCE_EXHAUSTED and refused.retry_seconds() > 0
    assert "768 images wait, the limit is 512" in refused.text
    assert service.server.registry.get(MODEL).statistics.codes["RESOURCE_EXHAUSTED"] == 256
    few = begin(service, [good] * 128)
    slow.let_through(1000)
    for call in (*many, few):
        assert all(result.classes for result in call.result(WAIT).results)


def test_the_bytes_of_all_requests_in_progress_are_bounded(
    service: LocalService, slow: SlowDecoding, good: pb.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(classification, "MAX_WAITING_BYTES", 4 * len(good.encoded))
    first = begin(service, [good] * 8)  # over the limit, and alone
    wait_until(lambda: slow.began == 2, "the first pictures are decoded")
    refused = Refusal(begin(service, [good]).exception(WAIT))
    assert refused.code is grpc.StatusCode.RESOURCE_EXHAUSTED and "bytes wait, the limit is" in refused.text
    slow.let_through(9)
    first.result(WAIT)
    assert begin(service, [good]).result(WAIT).results[0].classes


def test_a_picture_that_takes_more_memory_than_all_decoding_may_is_refused_with_the_limit(
    published: Path, grpc_server: str, good: pb.Image
) -> None:
    file = io.BytesIO()
    Image.new("L", (8000, 8000), 255).save(file, "PNG")
    with local_service(published, grpc_server, decode_memory_bytes=64 * 2**20) as service:
        large, small = begin(service, [pb.Image(encoded=file.getvalue()), good]).result(WAIT).results
    assert large.error.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert "decoding the picture would take" in large.error.message and "the limit is 32 MiB" in large.error.message
    assert small.classes


def test_queue_wait_and_time_of_decoding_are_metrics(service: LocalService, slow: SlowDecoding, good: pb.Image) -> None:
    def metrics() -> dict[str, float]:
        lines = urllib.request.urlopen(service.server.metrics_url).read().decode().splitlines()
        return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if line[0] != "#")}

    slow.seconds = 0.02
    call = begin(service, [good] * 10)
    wait_until(lambda: slow.began == 2, "the first pictures are decoded")
    assert metrics()["inference_decode_queue_pictures"] == 8
    slow.let_through(10)
    call.result(WAIT)
    after = metrics()
    assert after["inference_decode_queue_pictures"] == 0
    assert (
        after["inference_decode_duration_seconds_count"] == after["inference_decode_queue_duration_seconds_count"] == 10
    )
    assert 0.2 < after["inference_decode_duration_seconds_sum"] < WAIT
    assert after["inference_decode_queue_duration_seconds_sum"] > 0.02
