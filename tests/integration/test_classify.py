"""simplecnn.v1.ImageClassifier over the wire, on both gRPC servers, with the published model."""

import io
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from service.pb import classifier_pb2 as pb
from service.pb import classifier_pb2_grpc
from service.pictures import fitting
from service.transport.grpc import classifier_servicer
from tests.support.images import big_scan
from tests.support.local_service import Gate, LocalService, local_service
from tests.support.models import add_version, doubling_model
from tests.support.refusal import Refusal
from tests.support.waiting import wait_until

MODEL = "mnist-simplecnn"
TestImages = tuple[NDArray[np.uint8], NDArray[np.uint8]]


@pytest.fixture
def service(published: Path, grpc_server: str) -> Iterator[LocalService]:
    with local_service(published, grpc_server) as service:
        yield service


def png(image: Image.Image) -> pb.Image:
    file = io.BytesIO()
    image.save(file, "PNG")
    return pb.Image(encoded=file.getvalue())


def digit(pixels: NDArray[np.uint8]) -> pb.Image:
    return png(Image.fromarray(pixels[:, :, 0]))


def classify(service: LocalService, *images: pb.Image, **fields: Any) -> list[pb.Result]:
    stub = classifier_pb2_grpc.ImageClassifierStub(service.channel)
    request = pb.ClassifyRequest(images=images, **{"model_name": MODEL} | fields)
    return list(stub.Classify(request, timeout=30).results)


def refusal(service: LocalService, *images: pb.Image, **fields: Any) -> Refusal:
    with pytest.raises(grpc.RpcError) as caught:
        classify(service, *images, **fields)
    return Refusal(caught.value)


def test_results_carry_label_class_probability_and_version(service: LocalService, test_images: TestImages) -> None:
    pixels, labels = test_images
    results = classify(service, *map(digit, pixels[:200]), top_k=3)
    assert [result.index for result in results] == list(range(200))
    correct = 0
    for result, label in zip(results, labels[:200], strict=True):
        assert (result.model_name, result.model_version, len(result.classes)) == (MODEL, "1", 3)
        first = result.classes[0]
        assert first.label == str(first.class_id)
        assert [found.probability for found in result.classes] == sorted(
            (found.probability for found in result.classes), reverse=True
        )
        correct += first.class_id == label
    assert correct >= 190


def test_raw_pixels_and_photographs_get_the_same_labels_as_files(
    service: LocalService, test_images: TestImages
) -> None:
    image = test_images[0][3]
    raw = pb.Image(raw=pb.RawImage(width=28, height=28, channels=1, pixels=image.tobytes()))
    dark = pb.Image(raw=pb.RawImage(width=28, height=28, channels=1, pixels=(255 - image).tobytes()))
    file, same, inverted, photograph = classify(service, digit(image), raw, dark, png(big_scan(image)))
    assert file.classes == same.classes == inverted.classes and len(file.classes) == 1
    assert photograph.classes[0].class_id == file.classes[0].class_id


def test_fitting_can_be_turned_off(service: LocalService, test_images: TestImages) -> None:
    image = test_images[0][3]
    dark, large = digit(255 - image), png(big_scan(image))
    fitted, unfitted, refused = (
        classify(service, dark)[0], *classify(service, dark, large, fit=pb.FIT_NONE)
    )  # fmt: skip
    assert fitted.classes != unfitted.classes, "the image was inverted although fitting is off"
    assert "expected 28 × 28 pixels, L, got 400 × 300, RGB" in refused.error.message


def test_an_invalid_image_has_an_error_in_its_result_and_the_others_are_classified(
    service: LocalService, test_images: TestImages
) -> None:
    good = digit(test_images[0][0])
    results = classify(service, good, pb.Image(encoded=b"not an image"), pb.Image(), good)
    assert [result.index for result in results] == [0, 1, 2, 3]
    assert [bool(result.classes) for result in results] == [True, False, False, True]
    assert results[1].error.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert "expected a PNG, JPEG, WebP, HEIC, AVIF, GIF, BMP or TIFF file" in results[1].error.message
    assert "expected encoded or raw, got neither" in results[2].error.message
    counted = service.server.registry.get(MODEL).statistics.codes
    assert counted == {"OK": 2, "INVALID_ARGUMENT": 2}
    (alone,) = classify(service, pb.Image(encoded=b"not an image"))
    assert alone.error.message == results[1].error.message


def test_an_unexpected_exception_fails_only_its_image(
    published: Path, grpc_server: str, test_images: TestImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit_file = fitting.fit_file
    bad, good = digit(test_images[0][1]), digit(test_images[0][0])

    def fit_or_raise(data: bytes, *arguments: Any) -> Any:
        if data == bad.encoded:
            raise KeyError("the decoder's secret")
        return fit_file(data, *arguments)

    monkeypatch.setattr(fitting, "fit_file", fit_or_raise)
    with local_service(published, grpc_server) as service:
        first, second = classify(service, bad, good)
    assert first.error.code == grpc.StatusCode.INTERNAL.value[0] and "secret" not in first.error.message
    assert second.classes


def test_too_many_images_are_refused_before_any_is_read(
    service: LocalService, test_images: TestImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[object] = []
    monkeypatch.setattr(classifier_servicer, "_source", lambda image: read.append(image))
    good = digit(test_images[0][0])
    assert "expected 1 to 256, got 257" in refusal(service, *[good] * 257).text
    assert read == []
    (result,) = classify(service, good)
    assert "expected encoded or raw" in result.error.message
    assert len(read) == 1


def test_an_invalid_call_fails_with_its_status(service: LocalService, test_images: TestImages) -> None:
    good = digit(test_images[0][0])
    assert refusal(service).fields() == ["images"]
    assert "expected 1 to 256, got 257" in refusal(service, *[good] * 257).text
    assert refusal(service, good, fit=9).fields() == ["fit"]
    unknown = refusal(service, good, model_name="absent")
    assert unknown.code is grpc.StatusCode.NOT_FOUND and "mnist-simplecnn" in unknown.text
    assert refusal(service, good, model_version="7").code is grpc.StatusCode.NOT_FOUND


def test_a_model_that_takes_no_images_is_refused_with_its_inputs(tmp_path: Path, grpc_server: str) -> None:
    add_version(tmp_path, "double", doubling_model())
    with local_service(tmp_path, grpc_server) as service:
        error = refusal(service, pb.Image(encoded=b"x"), model_name="double")
    assert error.code is grpc.StatusCode.INVALID_ARGUMENT and "but it takes FP32 [4]" in error.text


def test_a_full_queue_is_the_status_of_a_call_without_any_classified_image(
    published: Path, tmp_path: Path, grpc_server: str, gate: Gate, test_images: TestImages
) -> None:
    """If other images were classified, it is the error of the images that found the queue full."""
    repository = tmp_path / "models"
    shutil.copytree(published, repository)
    config = repository / MODEL / "config.pbtxt"
    config.write_text(
        config.read_text().replace("max_batch_size: 64", "max_batch_size: 2").replace(
            "dynamic_batching {", "dynamic_batching { default_queue_policy { max_queue_size: 3 } "
        )
    )  # fmt: skip
    good = digit(test_images[0][0])
    with local_service(repository, grpc_server) as service:
        batcher = service.server.registry.get(MODEL).batcher
        assert batcher.policy.levels[0].max_rows == 3
        gate.hold()
        stub = classifier_pb2_grpc.ImageClassifierStub(service.channel)
        running = stub.Classify.future(pb.ClassifyRequest(model_name=MODEL, images=[good]))
        gate.wait_for(1)
        first = stub.Classify.future(pb.ClassifyRequest(model_name=MODEL, images=[good] * 8))
        wait_until(lambda: batcher.queued_rows == 3, "the queue is full")
        second = refusal(service, good, good)
        assert second.code is grpc.StatusCode.RESOURCE_EXHAUSTED and second.retry_seconds() >= 0
        gate.open()
        results = first.result(timeout=30).results
        codes = sorted(result.error.code for result in results)
        assert codes == [0] * 3 + [grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]] * 5
        assert running.result(timeout=30).results[0].classes


def test_a_deadline_and_a_cancellation_drop_every_image_of_the_call(
    published: Path, grpc_server: str, gate: Gate, test_images: TestImages
) -> None:
    good = digit(test_images[0][0])
    with local_service(published, grpc_server) as service:
        batcher = service.server.registry.get(MODEL).batcher
        gate.hold()
        stub = classifier_pb2_grpc.ImageClassifierStub(service.channel)
        request = pb.ClassifyRequest(model_name=MODEL, images=[good] * 8)
        with pytest.raises(grpc.RpcError) as caught:
            stub.Classify(request, timeout=0.3)
        assert Refusal(caught.value).code is grpc.StatusCode.DEADLINE_EXCEEDED
        call = stub.Classify.future(request)
        wait_until(lambda: batcher.queued_rows >= 8, "the images are queued")
        call.cancel()
        wait_until(lambda: batcher.queued_rows == 0, "the queue is empty")
        gate.open()


def test_all_images_of_a_call_are_classified_by_one_version(
    published: Path, tmp_path: Path, test_images: TestImages
) -> None:
    repository = tmp_path / "models"
    shutil.copytree(published, repository)
    shutil.copytree(repository / MODEL / "1", repository / MODEL / "2")
    config = repository / MODEL / "config.pbtxt"
    parameters = {"stable": "1", "canary": "2", "canary_percent": "50"}
    config.write_text(
        config.read_text()
        + "".join(f'parameters {{ key: "{k}" value {{ string_value: "{v}" }} }}\n' for k, v in parameters.items())
    )
    good = digit(test_images[0][0])
    with local_service(repository, "native") as service:
        versions = [{result.model_version for result in classify(service, good, good, good)} for _ in range(40)]
    assert all(len(found) == 1 for found in versions)
    assert {version for found in versions for version in found} == {"1", "2"}
