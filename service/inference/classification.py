"""Classification: images to labels, for `Classify`.

Owns the binding of a call to one loaded version, the limits on what all calls hold, and the result of each image. Not
here: which models classify images (image_models.py), decoding (picture_work.py, picture_queue.py, picture_decoder.py),
the messages of Classify (transport/grpc/classifier_servicer.py), inference (handler.py).
"""

import asyncio
import contextlib
import functools
import secrets
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import structlog

from service.batching.scheduler import BatcherClosed
from service.core.errors import DeadlineExceeded, Draining, EngineFailed, InvalidArgument, QueueFull, ServiceError
from service.core.spec import Arrays, ModelSpec
from service.inference.handler import CLOCK_TOLERANCE
from service.inference.image_models import class_output, image_shape
from service.inference.picture_decoder import PictureDecoder
from service.inference.picture_queue import Call
from service.inference.picture_work import ImageSource, PictureWork
from service.inference.top_classes import top_classes
from service.models.loader import LoadedModel
from service.models.registry import Registry
from service.pictures.fit import Fit, default_fit

log = structlog.get_logger(__name__)

# Images in one call, and what all calls in progress hold together, at most: images, and bytes of requests.
MAX_IMAGES, MAX_WAITING_IMAGES, MAX_WAITING_BYTES = 256, 1024, 256 * 2**20

# An image as the transport has it.
Image = TypeVar("Image")
Failure = TypeVar("Failure", bound=Exception)

# Computes one row on a version, and returns the values of the output of this index as bytes. Raises a ServiceError, or
# BatcherClosed if the version is being unloaded.
Infer = Callable[[LoadedModel, Arrays, int], Awaitable[bytes]]


@dataclass(frozen=True)
class ClassProbability:
    """One class of a result; `label` is "" if the model has no label for it."""

    class_id: int
    label: str
    probability: float


@dataclass(frozen=True)
class Classification:
    """The result for one image: its most probable classes, and the version that computed them."""

    model_name: str
    model_version: str
    classes: Sequence[ClassProbability]


class Classifier:
    """Classifies images, on an event loop; `decoder` decodes them."""

    def __init__(self, registry: Registry, decoder: PictureDecoder) -> None:
        self._registry = registry
        self._decoder = decoder
        self.waiting = self._waiting_bytes = 0  # images in progress, and bytes of their requests
        self._idle = asyncio.Event()
        self._idle.set()

    async def finish(self, seconds: float) -> bool:
        """Wait until every call has its results; False if one takes longer than `seconds`."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), seconds)
        return not self.waiting

    async def classify(
        self,
        model_name: str,
        version: str,
        images: Sequence[Image],
        read: Callable[[Image], ImageSource],
        *,
        fit: Fit | None,
        top_k: int,
        infer: Infer,
        size: int = 0,
        deadline: float | None = None,
    ) -> list[Classification | ServiceError]:
        """Classify each image; the result of one that fails is its error. `infer` computes for this caller.

        `fit` is None for the model's own. `read` copies an image's content out of the request; it runs on a decoder
        thread, after every check. `size` is the request's, in bytes; `deadline` is on time.monotonic()'s clock. One
        loaded version serves the whole call: its size, its outputs and its labels. If it is replaced before it has
        taken every image, the call starts again with the version that serves now.

        Raises:
            ServiceError: the request is invalid, or no image was classified and not every image is invalid.
        """
        count = len(images)
        if not 1 <= count <= MAX_IMAGES:
            raise InvalidArgument("images", f"images expected 1 to {MAX_IMAGES}, got {count}")
        key = secrets.token_hex(8)  # so that a call that starts again stays on its side of the canary
        model = self._registry.get(model_name, version, key)
        try:
            self._check_places(count, size)
        except QueueFull as error:
            _count_failures(model, error.code.name, count)
            raise
        with self._places(count, size):
            while True:
                try:
                    answers = await self._infer_all(model, images, read, fit=fit, infer=infer, deadline=deadline)
                    return _results(model, answers, top_k)
                except BatcherClosed:
                    replaced, model = model, self._registry.get(model_name, version, key)
                    if model is replaced:  # closed, and still routed: the server stops
                        raise Draining from None

    def _check_places(self, count: int, size: int) -> None:
        """Check that a call needs no more than half of the free places.

        So calls of few images are served where large ones are refused. A request of any size is taken if no other call
        is in progress.

        Raises:
            QueueFull: there are not as many free places.
        """
        if self.waiting > (limit := MAX_WAITING_IMAGES - 2 * count):
            raise QueueFull(self.waiting, limit, retry_after=1.0, unit="images")
        if self.waiting and self._waiting_bytes > (limit := max(0, MAX_WAITING_BYTES - 2 * size)):
            raise QueueFull(self._waiting_bytes, limit, retry_after=1.0, unit="bytes")

    @contextlib.contextmanager
    def _places(self, count: int, size: int) -> Iterator[None]:
        """Count the call's images and the bytes of its request while it is in progress."""
        self.waiting += count
        self._waiting_bytes += size
        self._idle.clear()
        try:
            yield
        finally:
            self.waiting -= count
            self._waiting_bytes -= size
            if not self.waiting:
                self._idle.set()

    async def _infer_all(
        self,
        model: LoadedModel,
        images: Sequence[Image],
        read: Callable[[Image], ImageSource],
        *,
        fit: Fit | None,
        infer: Infer,
        deadline: float | None,
    ) -> list[bytes | ServiceError]:
        """The values of the class output of this version for each image, or the image's error.

        Raises:
            BatcherClosed: the version was replaced; images that wait for it are dropped.
            DeadlineExceeded: the images cannot be decoded before the deadline.
            InvalidArgument: the version does not classify images.
        """
        shape, output = image_shape(model.spec), class_output(model.spec)
        fit = fit or model.fit or default_fit(shape[2])

        unqueued = set(range(len(images)))  # images that no request was made of, which would be counted where it ends

        async def infer_one(call: Call, index: int) -> bytes | ServiceError:
            try:
                work = PictureWork(functools.partial(read, images[index]), shape, fit)
                row = await self._decoder.decode(call, work)
                unqueued.remove(index)
                return await infer(model, row, output)
            except ServiceError as error:
                return _bare(error)
            except BatcherClosed:
                raise
            except Exception as error:  # one image must not fail the others
                failed = EngineFailed()
                log.exception("image failed", error_id=failed.error_id)
                _bare(error)
                return failed

        try:
            with self._decoder.call(len(images), deadline) as call:
                async with asyncio.TaskGroup() as tasks:
                    pending = [tasks.create_task(infer_one(call, index)) for index in range(len(images))]
        except DeadlineExceeded as error:
            _count_failures(model, error.code.name, len(images))
            raise
        except asyncio.CancelledError:
            expired = deadline is not None and time.monotonic() >= deadline - CLOCK_TOLERANCE
            _count_failures(model, "DEADLINE_EXCEEDED" if expired else "CANCELLED", len(unqueued))
            raise
        except ExceptionGroup as group:  # of BatcherClosed: every other exception is a result
            raise BatcherClosed from group
        answers = [task.result() for task in pending]
        for answer in (answers[index] for index in unqueued):
            assert isinstance(answer, ServiceError)
            _count_failures(model, answer.code.name, 1)
        return answers


def _bare(error: Failure) -> Failure:
    """The error without traceback and causes: their frames hold the image and the error, until garbage collection."""
    error.__cause__ = error.__context__ = error.__traceback__ = None
    return error


def _count_failures(model: LoadedModel, code: str, images: int) -> None:
    """Count each image as a request that failed."""
    for _ in range(images):
        model.statistics.record_failure(code, 0.0)


def _results(
    model: LoadedModel, answers: Sequence[bytes | ServiceError], top_k: int
) -> list[Classification | ServiceError]:
    """The result of each image, from the values that this version computed.

    Raises:
        ServiceError: no image was classified, and not every image is invalid.
    """
    errors = [answer for answer in answers if isinstance(answer, ServiceError)]
    invalid = [error for error in errors if isinstance(error, InvalidArgument)]
    if len(errors) == len(answers) and len(invalid) < len(errors):
        raise next(error for error in errors if error not in invalid)
    return [
        answer if isinstance(answer, ServiceError) else _classification(model.spec, answer, top_k) for answer in answers
    ]


def _classification(spec: ModelSpec, answer: bytes, top_k: int) -> Classification:
    tensor = spec.outputs[class_output(spec)]
    values = np.frombuffer(answer, tensor.data_type.dtype)
    classes = [
        ClassProbability(
            class_id, tensor.labels[class_id] if class_id < len(tensor.labels) else "", float(values[class_id])
        )
        for class_id in top_classes(values, top_k).tolist()
    ]
    return Classification(spec.name, str(spec.version), classes)
