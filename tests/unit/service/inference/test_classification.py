"""A Classify call is bound to one loaded version: its image size, its outputs, its labels and its number."""

import asyncio
import gc
import weakref
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest

from service.batching.scheduler import BatcherClosed
from service.batching.statistics import Statistics
from service.core.datatypes import BY_NAME
from service.core.errors import Draining, ServiceError
from service.core.spec import Arrays, ModelSpec, TensorSpec
from service.inference.classification import Classification, Classifier
from service.inference.picture_decoder import PictureDecoder
from service.inference.picture_work import RawImage
from service.pb.model_config_pb2 import ModelConfig
from service.pictures.fit import DRAWING, RESIZE, Fit
from tests.support.waiting import wait_until

RESIZED = Fit(RESIZE)
WHITE = RawImage(b"\xff" * 16, 4, 4, 1)


class Version:
    """A loaded version without an engine: `size` pixels square, its outputs in the order of their names."""

    def __init__(self, number: int, size: int, outputs: dict[str, int], labels: tuple[str, ...]) -> None:
        tensors = tuple(
            TensorSpec(name, BY_NAME["FP32"], (classes,), labels if name == "probabilities" else ())
            for name, classes in outputs.items()
        )
        image = TensorSpec("images", BY_NAME["UINT8"], (size, size, 1))
        self.spec = ModelSpec("m", number, (image,), tensors, 8, ModelConfig())
        self.statistics = Statistics()
        self.fit: Fit | None = None
        self.closed = False

    def compute(self, inputs: Arrays, output: int) -> bytes:
        """The first class is that of every image, and other outputs than the probabilities have other values."""
        if self.closed:
            raise BatcherClosed
        assert inputs[0].shape == (1, *self.spec.inputs[0].shape), "an image of another version's size"
        values = np.linspace(1, 0, self.spec.outputs[output].shape[0], dtype=np.float32)
        return values.tobytes() if self.spec.outputs[output].name == "probabilities" else (-values).tobytes()


class Versions:
    """A registry: the version that serves now."""

    def __init__(self, serving: Version) -> None:
        self.serving = serving
        self.keys: list[str] = []

    def get(self, name: str, version: str, key: str) -> Any:
        self.keys.append(key)
        return self.serving

    def replace(self, other: Version) -> None:
        """As a reload does: route to the new version, then close the old one."""
        old, self.serving = self.serving, other
        old.closed = True


def cats() -> Version:
    return Version(1, 4, {"probabilities": 2}, ("cat", "dog"))


def pets(number: int = 2) -> Version:
    """Another size, another order of outputs, and other labels."""
    return Version(number, 6, {"features": 3, "probabilities": 2}, ("dog", "cat"))


Hook = Callable[[int], None]


def classify(
    versions: Versions, hook: Hook, images: list[Any] | None = None
) -> list[tuple[int, str, str] | ServiceError]:
    """Classify white images. `hook` is called before each inference, with the number of those before it."""
    calls = 0

    async def infer(model: Any, inputs: Arrays, output: int) -> bytes:
        nonlocal calls
        calls += 1
        hook(calls - 1)
        return bytes(model.compute(inputs, output))

    return run(versions, infer, images or [WHITE] * 4)


def run(
    versions: Versions,
    infer: Callable[[Any, Arrays, int], Awaitable[bytes]],
    images: list[Any],
    fit: Fit | None = RESIZED,
    read: Callable[[Any], Any] = lambda image: image,
) -> list[tuple[int, str, str] | ServiceError]:
    registry: Any = versions
    decoder = PictureDecoder(2**29)
    classifier = Classifier(registry, decoder)
    try:
        results = asyncio.run(classifier.classify("m", "", images, read, fit=fit, top_k=1, infer=infer))
    finally:
        decoder.close()
    return [
        (len(result.classes), result.classes[0].label, result.model_version)
        if isinstance(result, Classification)
        else result
        for result in results
    ]


@pytest.mark.parametrize("at", [0, 1, 3])
def test_a_version_that_is_replaced_in_the_middle_of_a_call_has_no_part_in_its_answer(at: int) -> None:
    versions = Versions(cats())
    swaps = [at]

    def swap(call: int) -> None:
        if call in swaps:
            swaps.remove(call)
            versions.replace(pets())

    assert classify(versions, swap) == [(1, "dog", "2")] * 4
    assert len(versions.keys) == 2 and len(set(versions.keys)) == 1, "it changed sides of the canary"


def test_a_call_stays_with_its_version_while_that_takes_requests_even_if_another_serves_new_calls() -> None:
    versions = Versions(cats())

    def promote(call: int) -> None:
        versions.serving = pets()

    assert classify(versions, promote) == [(1, "cat", "1")] * 4


def test_a_call_starts_again_only_for_another_version() -> None:
    """Five versions are replaced; then one is closed and none replaces it, as when the server stops."""
    versions = Versions(cats())
    calls = []

    def close(call: int) -> None:
        calls.append(versions.serving.spec.version)
        if len(calls) < 6:
            versions.replace(pets(len(calls) + 1))
        else:
            versions.serving.closed = True

    with pytest.raises(Draining):
        classify(versions, close, [WHITE])
    assert calls == [1, 2, 3, 4, 5, 6]


def test_images_that_wait_for_a_replaced_version_are_cancelled() -> None:
    versions = Versions(cats())
    cancelled: list[int] = []

    async def infer(model: Any, inputs: Arrays, output: int) -> bytes:
        if model.spec.version == 1:
            if not waiting.is_set():
                waiting.set()
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    cancelled.append(model.spec.version)
                    raise
            versions.replace(pets())
        return bytes(model.compute(inputs, output))

    waiting = asyncio.Event()
    assert run(versions, infer, [WHITE] * 2) == [(1, "dog", "2")] * 2
    assert cancelled == [1]


def test_an_invalid_image_is_counted_once_for_the_version_that_answered() -> None:
    first, second = cats(), pets()
    versions = Versions(first)
    results = classify(
        versions, lambda call: versions.replace(second) if not call else None, [RawImage(b"", 0, 0, 1), WHITE]
    )
    assert isinstance(results[0], ServiceError) and results[1] == (1, "dog", "2")
    assert (first.statistics.codes, second.statistics.codes) == ({}, {"INVALID_ARGUMENT": 1})


@pytest.mark.parametrize("content", [RawImage(b"", 0, 0, 1), None, 7], ids=["invalid", "none", "unexpected"])
def test_what_an_image_refers_to_is_freed_with_its_call_and_not_by_the_garbage_collector(content: Any) -> None:
    class Reader:
        """Stands in for the image's content, which the work for the image holds as well."""

        def __call__(self, _: Any) -> Any:
            return content

    reader = Reader()
    alive = weakref.ref(reader)
    gc.collect()
    gc.disable()
    try:
        (result,) = run(Versions(cats()), lambda *_: pytest.fail("computed"), [WHITE], read=reader)
        del reader
        assert isinstance(result, ServiceError)
        wait_until(lambda: alive() is None, "the decoder thread ended its turn")
    finally:
        gc.enable()


@pytest.mark.parametrize(
    ("asked", "recorded", "corner"),
    [
        (None, None, 0),
        (None, Fit(RESIZE), 255),
        (None, Fit(DRAWING), 0),
        (Fit(DRAWING), Fit(RESIZE), 0),
        (Fit(RESIZE), Fit(DRAWING), 255),
    ],
)
def test_a_picture_is_fitted_as_the_call_says_else_as_the_version_records_else_by_its_channels(
    asked: Fit | None, recorded: Fit | None, corner: int
) -> None:
    """A white page with a dark spot is inverted if it is taken for a drawing."""
    page = RawImage(b"\xff" * 10 + b"\0" + b"\xff" * 5, 4, 4, 1)
    version = cats()
    version.fit = recorded
    corners: list[int] = []

    async def infer(model: Any, inputs: Arrays, output: int) -> bytes:
        corners.append(int(inputs[0][0, 0, 0, 0]))
        return bytes(model.compute(inputs, output))

    run(Versions(version), infer, [page], fit=asked)
    assert corners == [corner]
