"""Classification: images to labels, for `Classify`.

Owns the check that a model classifies images, the binding of a call to one loaded version, the limits on what all calls
hold, and the result of each image. Not here: decoding (picture_work.py, picture_queue.py, picture_decoder.py), the
messages of Classify (transport/grpc/classifier_servicer.py), inference (handler.py).
"""

import asyncio
import contextlib
import functools
import secrets
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import structlog

from service.batching.scheduler import BatcherClosed
from service.core.errors import DeadlineExceeded, Draining, EngineFailed, InvalidArgument, QueueFull, ServiceError
from service.core.spec import Arrays, ModelSpec
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
        with self._places(count, size):
            replaced: LoadedModel | None = None
            while True:
                model = self._registry.get(model_name, version, key)
                if model is replaced:  # closed, and still routed: the server stops
                    raise Draining
                try:
                    answers = await self._infer_all(model, images, read, fit=fit, infer=infer, deadline=deadline)
                    return _results(model, answers, top_k)
                except BatcherClosed:
                    replaced = model

    @contextlib.contextmanager
    def _places(self, count: int, size: int) -> Iterator[None]:
        """Count the call's images and the bytes of its request while it is in progress.

        A call needs twice its own places to be free, so that calls of few images are served where large ones are
        refused. A request of any size is taken if no other call is in progress.

        Raises:
            QueueFull: there are not as many free places.
        """
        if self.waiting > (limit := MAX_WAITING_IMAGES - 2 * count):
            raise QueueFull(self.waiting, limit, retry_after=1.0, unit="images")
        if self.waiting and self._waiting_bytes > (limit := max(0, MAX_WAITING_BYTES - 2 * size)):
            raise QueueFull(self._waiting_bytes, limit, retry_after=1.0, unit="bytes")
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

        async def infer_one(call: Call, image: Image) -> bytes | ServiceError:
            try:
                row = await self._decoder.decode(call, PictureWork(functools.partial(read, image), shape, fit))
                return await infer(model, row, output)
            except ServiceError as error:
                return error
            except BatcherClosed:
                raise
            except Exception:  # one image must not fail the others
                failed = EngineFailed()
                log.exception("image failed", error_id=failed.error_id)
                return failed

        try:
            with self._decoder.call(len(images), deadline) as call:
                async with asyncio.TaskGroup() as tasks:
                    pending = [tasks.create_task(infer_one(call, image)) for image in images]
        except DeadlineExceeded as error:
            for _ in images:  # each counts as a request, and none of them is queued
                model.statistics.record_failure(error.code.name, 0.0)
            raise
        except ExceptionGroup as group:  # of BatcherClosed: every other exception is a result
            raise BatcherClosed from group
        return [task.result() for task in pending]


def _results(
    model: LoadedModel, answers: Sequence[bytes | ServiceError], top_k: int
) -> list[Classification | ServiceError]:
    """The result of each image, from the values that this version computed.

    Raises:
        ServiceError: no image was classified, and not every image is invalid.
    """
    errors = [answer for answer in answers if isinstance(answer, ServiceError)]
    invalid = [error for error in errors if isinstance(error, InvalidArgument)]
    for error in invalid:
        model.statistics.record_failure(error.code.name, 0.0)  # here, because an invalid image is never queued
    if len(errors) == len(answers) and len(invalid) < len(errors):
        raise next(error for error in errors if error not in invalid)
    return [
        answer if isinstance(answer, ServiceError) else _classification(model.spec, answer, top_k) for answer in answers
    ]


def image_shape(spec: ModelSpec) -> tuple[int, int, int]:
    """(height, width, channels) of the model's input.

    Raises:
        InvalidArgument: the model does not take images.
    """
    if len(spec.inputs) == 1 and spec.batches:
        (tensor,) = spec.inputs
        if tensor.data_type.name == "UINT8" and len(tensor.shape) == 3 and tensor.shape[2] in (1, 3):
            height, width, channels = tensor.shape
            if height > 0 and width > 0:
                return height, width, channels
    found = ", ".join(f"{tensor.data_type.name} {list(tensor.shape)}" for tensor in spec.inputs)
    raise InvalidArgument(
        "model_name",
        f"model {spec.name!r} takes no images: expected UINT8 [N, height, width, 1 or 3], but it takes {found}",
    )


def class_output(spec: ModelSpec) -> int:
    """The index of the output with one probability a class: the output with labels, or the only output of that form.

    Raises:
        InvalidArgument: no output or several outputs qualify.
    """
    outputs = [
        index
        for index, tensor in enumerate(spec.outputs)
        if tensor.data_type.dtype.kind == "f" and len(tensor.shape) == 1
    ]
    candidates = [index for index in outputs if spec.outputs[index].labels] or outputs
    if len(candidates) != 1:
        raise InvalidArgument(
            "model_name",
            f"model {spec.name!r} expected one output with a probability a class, but has {len(candidates)}",
        )
    return candidates[0]


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
