"""A server that stops: it waits for no load and no call of model control, and says what took longer only if it did."""

import io
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from PIL import Image
from structlog.testing import capture_logs

from service.core.lifecycle import Phase
from service.models.loader import LoadedModel, load
from service.models.repository.version_files import ModelFolder
from service.models.repository_thread import MAX_WAITING_CALLS, RepositoryThread
from service.pb import classifier_pb2, classifier_pb2_grpc
from service.pb import inference_pb2 as pb
from service.pictures import fitting
from tests.support.http import get
from tests.support.local_service import Gate, LocalService, local_service
from tests.support.models import BATCHING_CONFIG, add_version, doubling_model
from tests.support.refusal import Refusal
from tests.support.requests import infer_request, outputs_of
from tests.support.waiting import WAIT, wait_until

X = np.arange(4, dtype=np.float32).reshape(1, 4)


class SlowLoad:
    """The real loader, which waits for `release` once it is told to."""

    def __init__(self) -> None:
        self._may_go_on = threading.Event()
        self._may_go_on.set()
        self.began = 0
        self.ended = 0

    def __call__(self, folder: ModelFolder, version: int, *arguments: Any, **options: Any) -> LoadedModel:
        self.began += 1
        assert self._may_go_on.wait(WAIT)
        try:
            return load(folder, version, *arguments, **options)
        finally:
            self.ended += 1

    def hold(self) -> None:
        self.began = self.ended = 0
        self._may_go_on.clear()

    def release(self) -> None:
        self._may_go_on.set()


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Iterator[SlowLoad]:
    slow = SlowLoad()
    monkeypatch.setattr("service.app.server.load", slow)
    yield slow
    slow.release()
    wait_until(lambda: not loading_threads(), "the threads that load have ended")


def loading_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if isinstance(thread, RepositoryThread)]


def load_call(service: LocalService, name: str = "double") -> Any:
    return service.stub.RepositoryModelLoad.future(pb.RepositoryModelLoadRequest(model_name=name), timeout=WAIT)


def test_a_stop_does_not_wait_for_the_first_load_and_that_load_changes_nothing(
    toys: Path, grpc_server: str, slow: SlowLoad
) -> None:
    slow.hold()
    service = LocalService(toys, grpc_server)
    wait_until(lambda: slow.began == 1, "the load begins")
    assert get(service.server.metrics_url.replace("metrics", "readyz")) == (503, "models are still loading\n")
    with capture_logs() as logs:
        service.stop()  # while the load waits
        assert service.server.lifecycle.phase is Phase.STOPPED
        slow.release()
        wait_until(lambda: not loading_threads(), "the load ends")
    assert [line["event"] for line in logs] == ["draining", "stopped"]
    assert slow.ended == slow.began == 1, "the next version was loaded after the stop"
    assert not service.server.registry.models()


def test_a_reload_that_ends_after_the_stop_does_not_replace_the_version_that_serves(
    toys: Path, grpc_server: str, slow: SlowLoad
) -> None:
    service = LocalService(toys, grpc_server).ready()
    slow.hold()
    add_version(toys, "double", doubling_model(), version=2)
    service.server.request_scan()
    wait_until(lambda: slow.began == 1, "the load begins")
    service.stop()
    slow.release()
    wait_until(lambda: not loading_threads(), "the load ends")
    assert list(service.server.registry.snapshot.versions("double")) == [1]


def test_a_request_to_scan_during_the_first_load_is_not_lost(toys: Path, slow: SlowLoad) -> None:
    slow.hold()
    service = LocalService(toys, "aio")
    try:
        wait_until(lambda: slow.began == 1, "the load begins")
        add_version(toys, "late", doubling_model())  # the scan that runs does not see it
        service.server.request_scan()
        slow.release()
        wait_until(lambda: "late" in service.server.registry.snapshot.entries, "the new model is found")
    finally:
        service.stop()


def test_calls_of_model_control_are_bounded_and_hold_up_no_other_call(
    toys: Path, grpc_server: str, slow: SlowLoad
) -> None:
    add_version(toys, "other", doubling_model())
    with local_service(toys, grpc_server, enable_model_control=True) as service:
        slow.hold()
        add_version(toys, "double", doubling_model(), version=2)
        running = load_call(service)
        wait_until(lambda: slow.began == 1, "the load begins")
        calls = [load_call(service, "lookup") for _ in range(MAX_WAITING_CALLS + 40)]
        wait_until(lambda: sum(call.done() for call in calls) == 40, "the calls that may not wait are refused")
        refused = [Refusal(call.exception()) for call in calls if call.done()]
        assert {refusal.code for refusal in refused} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
        assert refused[0].retry_seconds() > 0
        assert outputs_of(service.stub.ModelInfer(infer_request("double", x=X), timeout=WAIT))["y"][0, 1] == 2
        assert service.stub.ServerReady(pb.ServerReadyRequest(), timeout=WAIT).ready
        slow.release()
        running.result(WAIT)
        assert sum(call.exception(WAIT) is None for call in calls) == MAX_WAITING_CALLS
        assert service.stub.ModelInfer(infer_request("double", x=X)).model_version == "2"


def test_a_stop_fails_the_calls_of_model_control_that_run_and_wait(
    toys: Path, grpc_server: str, slow: SlowLoad
) -> None:
    service = LocalService(toys, grpc_server, enable_model_control=True).ready()
    slow.hold()
    add_version(toys, "double", doubling_model(), version=2)
    calls = [load_call(service)]
    wait_until(lambda: slow.began == 1, "the load begins")
    calls.append(load_call(service, "lookup"))
    finish = service.begin_shut_down()
    for call in calls:
        refusal = Refusal(call.exception(WAIT))
        assert refusal.code is grpc.StatusCode.UNAVAILABLE and "draining" in refusal.text
    finish()


def test_calls_took_longer_is_logged_only_if_one_did(toys: Path, grpc_server: str, gate: Gate) -> None:
    service = LocalService(toys, grpc_server, shutdown_timeout_seconds=0.0).ready()
    service.stub.ModelInfer(infer_request("double", x=X))
    with capture_logs() as logs:
        service.stop()
    assert [line["event"] for line in logs] == ["draining", "stopped"]

    service = LocalService(toys, grpc_server, shutdown_timeout_seconds=0.0).ready()
    gate.hold()
    call = service.stub.ModelInfer.future(infer_request("double", x=X))
    gate.wait_for(1)
    with capture_logs() as logs:
        service.stop()
    gate.open()
    assert call.exception(WAIT) is not None
    (late,) = [line for line in logs if line["event"] == "shutdown timed out, failing pending calls"]
    assert late["pending"] == 1


def test_a_stop_does_not_wait_for_a_run_that_hangs_on_a_servers_thread(
    tmp_path: Path, grpc_server: str, gate: Gate
) -> None:
    """With one model of short runs, the native server's own thread runs them."""
    add_version(tmp_path, "double", doubling_model(), config=BATCHING_CONFIG)
    service = LocalService(tmp_path, grpc_server, shutdown_timeout_seconds=0.0).ready()
    for _ in range(5):  # from now on the native server knows that the runs are short
        service.stub.ModelInfer(infer_request("double", x=X))
    gate.hold()
    call = service.stub.ModelInfer.future(infer_request("double", x=X))
    gate.wait_for(1)
    try:
        service.begin_shut_down()()
    finally:
        gate.open()
    assert call.exception(WAIT) is not None


@pytest.fixture
def decoding(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[threading.Event, threading.Event]]:
    """Makes images wait to be decoded: (one began, they may go on)."""
    began, may_go_on = threading.Event(), threading.Event()
    fit_file = fitting.fit_file

    def wait(*arguments: Any) -> Any:
        began.set()
        assert may_go_on.wait(WAIT)
        return fit_file(*arguments)

    monkeypatch.setattr(fitting, "fit_file", wait)
    yield began, may_go_on
    may_go_on.set()


def begin_classify(service: LocalService) -> Any:
    file = io.BytesIO()
    Image.new("L", (28, 28)).save(file, "PNG")
    request = classifier_pb2.ClassifyRequest(
        model_name="mnist-simplecnn", images=[classifier_pb2.Image(encoded=file.getvalue())] * 8
    )
    return classifier_pb2_grpc.ImageClassifierStub(service.channel).Classify.future(request, timeout=WAIT)


def test_a_stop_classifies_the_images_that_are_not_decoded_yet(
    published: Path, grpc_server: str, decoding: tuple[threading.Event, threading.Event]
) -> None:
    began, may_go_on = decoding
    service = LocalService(published, grpc_server).ready()
    call = begin_classify(service)
    assert began.wait(WAIT)
    finish = service.begin_shut_down()
    wait_until(lambda: not service.server.lifecycle.accepts_calls, "the server drains")
    late = Refusal(begin_classify(service).exception(WAIT))
    assert late.code is grpc.StatusCode.UNAVAILABLE and "draining" in late.text
    may_go_on.set()
    assert all(result.classes for result in call.result(WAIT).results)
    finish()


def test_a_stop_does_not_wait_longer_than_set_for_images(
    published: Path, grpc_server: str, decoding: tuple[threading.Event, threading.Event]
) -> None:
    began, _ = decoding
    service = LocalService(published, grpc_server, shutdown_timeout_seconds=0.0).ready()
    call = begin_classify(service)
    assert began.wait(WAIT)
    with capture_logs() as logs:
        service.begin_shut_down()()
    assert call.exception(WAIT) is not None
    (late,) = [line for line in logs if line["event"] == "shutdown timed out, failing pending calls"]
    assert (late["pending"], late["images"]) == (0, 8)


def test_a_stop_answers_the_calls_of_a_version_that_is_being_unloaded(toys: Path, grpc_server: str, gate: Gate) -> None:
    service = LocalService(toys, grpc_server).ready()
    with ThreadPoolExecutor(1) as pool:
        gate.hold()
        call = pool.submit(service.stub.ModelInfer, infer_request("double", x=X))
        gate.wait_for(1)
        (toys / "double").rename(toys.parent / "gone")
        service.server.request_scan()
        wait_until(lambda: not service.server.registry.snapshot.versions("double"), "the version is being unloaded")
        finish = service.begin_shut_down()
        wait_until(lambda: not service.server.lifecycle.accepts_calls, "the server drains")
        gate.open()
        np.testing.assert_array_equal(outputs_of(call.result(WAIT))["y"], 2 * X)
        finish()


def test_the_last_line_counts_the_requests_of_versions_that_are_gone_too(toys: Path, grpc_server: str) -> None:
    service = LocalService(toys, grpc_server).ready()
    for version in (2, 3, 4):
        service.stub.ModelInfer(infer_request("double", x=X))
        add_version(toys, "double", doubling_model(), version=version)
        service.server.reconciler.reconcile()
    service.stub.ModelInfer(infer_request("double", x=X))
    with capture_logs() as logs:
        service.stop()
    assert logs[-1]["event"] == "stopped" and logs[-1]["answered"] == 4
