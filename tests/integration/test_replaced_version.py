"""A call is answered by one loaded version, even if that version is replaced between the look-up and the inference."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.models.registry import Registry
from service.pb import classifier_pb2, classifier_pb2_grpc
from service.pb import inference_pb2 as pb
from tests.support.local_service import LocalService, local_service
from tests.support.publishing import publish_brightness
from tests.support.requests import infer_request

WHITE = classifier_pb2.Image(raw=classifier_pb2.RawImage(width=4, height=4, channels=1, pixels=b"\xff" * 16))


@pytest.fixture
def after_look_up(monkeypatch: pytest.MonkeyPatch) -> list[Callable[[], object]]:
    """Functions to call after the next look-ups of a version, one after each, before the caller gets it."""
    hooks: list[Callable[[], object]] = []
    get = Registry.get

    def get_then_call(registry: Registry, *arguments: Any, **keywords: Any) -> Any:
        model = get(registry, *arguments, **keywords)
        if hooks:
            hooks.pop(0)()
        return model

    monkeypatch.setattr(Registry, "get", get_then_call)
    return hooks


def request() -> pb.ModelInferRequest:
    """A white image of version 1's size, for its top class."""
    asked = infer_request("brightness", images=np.full((1, 4, 4, 1), 255, np.uint8))
    asked.outputs.add(name="probabilities").parameters["classification"].int64_param = 1
    return asked


def unary(service: LocalService) -> tuple[str, bytes]:
    response = service.stub.ModelInfer(request(), timeout=30)
    return response.model_version, response.raw_output_contents[0][4:]


def stream(service: LocalService) -> tuple[str, bytes]:
    (message,) = service.stub.ModelStreamInfer(iter([request()]), timeout=30)
    assert not message.error_message
    return message.infer_response.model_version, message.infer_response.raw_output_contents[0][4:]


def classify(service: LocalService) -> tuple[str, bytes]:
    asked = classifier_pb2.ClassifyRequest(
        model_name="brightness", images=[WHITE] * 3, fit=classifier_pb2.FIT_RESIZE, top_k=1
    )
    results = classifier_pb2_grpc.ImageClassifierStub(service.channel).Classify(asked, timeout=30).results
    (answer,) = {(r.model_version, f"{c.probability:f}:{c.class_id}:{c.label}") for r in results for c in r.classes}
    assert len(results) == 3
    return answer[0], answer[1].encode()


@pytest.fixture
def service(tmp_path: Path, grpc_server: str) -> Iterator[LocalService]:
    publish_brightness(tmp_path, ("dark", "light"))
    with local_service(tmp_path, grpc_server) as service:
        yield service


@pytest.mark.parametrize("ask", [unary, stream, classify])
def test_a_call_whose_version_is_replaced_is_answered_by_the_next_with_its_own_labels(
    service: LocalService, tmp_path: Path, after_look_up: list[Callable[[], object]], ask: Callable[..., Any]
) -> None:
    """Version 2 has the other order of classes. The first call lets the decode cache know the layout for version 1."""
    assert ask(service) == ("1", b"1.000000:1:light")

    def replace() -> None:
        publish_brightness(tmp_path, ("LIGHT", "DARK"), light_first=True)
        service.server.reconciler.reconcile()

    after_look_up.append(replace)
    assert ask(service) == ("2", b"1.000000:0:LIGHT")
    assert ask(service) == ("2", b"1.000000:0:LIGHT")


def test_classify_fits_its_images_to_the_version_that_answers(
    tmp_path: Path, grpc_server: str, after_look_up: list[Callable[[], object]]
) -> None:
    publish_brightness(tmp_path, ("dark", "light"))
    with local_service(tmp_path, grpc_server) as service:
        (tmp_path / "brightness" / "config.pbtxt").unlink()  # version 2 has another size

        def replace() -> None:
            publish_brightness(tmp_path, ("LIGHT", "DARK"), size=6, light_first=True)
            service.server.reconciler.reconcile()

        after_look_up.append(replace)
        assert classify(service) == ("2", b"1.000000:0:LIGHT")


def test_a_loaded_version_keeps_its_calls_while_a_newer_one_is_loaded_beside_it(
    tmp_path: Path, grpc_server: str, after_look_up: list[Callable[[], object]]
) -> None:
    publish_brightness(tmp_path, ("dark", "light"))
    config = tmp_path / "brightness" / "config.pbtxt"
    config.write_text(config.read_text() + "version_policy { all { } }\n")
    with local_service(tmp_path, grpc_server) as service:

        def publish() -> None:
            publish_brightness(tmp_path, ("LIGHT", "DARK"), light_first=True)
            service.server.reconciler.reconcile()

        after_look_up.append(publish)
        assert classify(service) == ("1", b"1.000000:1:light")
        assert classify(service) == ("2", b"1.000000:0:LIGHT")
