"""Classification: images to labels for `Classify`, and the classification extension of ModelInfer.

Owns the check that a model classifies images, the ModelInfer request of each image, the limit on images that wait to be
decoded, and the top classes of an output. Not here: decoding and fitting images (images.py), the messages of Classify
(transport/grpc/classifier_servicer.py), inference (handler.py).
"""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import structlog
from grpc import StatusCode
from numpy.typing import NDArray

from service.core.errors import EngineFailed, InvalidArgument, QueueFull, ServiceError
from service.core.spec import ModelSpec, TensorSpec
from service.models.registry import Registry
from service.pb.inference_pb2 import ModelInferRequest, ModelInferResponse

log = structlog.get_logger(__name__)

# Images in one call, and images in progress in all calls together, at most.
MAX_IMAGES, MAX_WAITING_IMAGES = 256, 1024
# Threads that decode images.
DECODER_THREADS = 2

# An image as the transport has it.
Image = TypeVar("Image")

# Takes a serialised ModelInferRequest and returns the serialised ModelInferResponse, or raises a ServiceError.
Infer = Callable[[bytes], Awaitable[bytes]]


@dataclass(frozen=True)
class RawImage:
    """Pixels, row by row, one byte a channel."""

    pixels: bytes
    width: int
    height: int
    channels: int


# The content of a request's image: an encoded file, raw pixels, or None for neither.
ImageSource = bytes | RawImage | None


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
    """Classifies images, on an event loop; DECODER_THREADS threads decode them."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._decoders = ThreadPoolExecutor(DECODER_THREADS, thread_name_prefix="decoder")
        self._waiting = 0

    def close(self) -> None:
        """Stop the threads."""
        self._decoders.shutdown(wait=False, cancel_futures=True)

    async def classify(
        self,
        model_name: str,
        version: str,
        images: Sequence[Image],
        read: Callable[[Image], ImageSource],
        *,
        fit: int,
        top_k: int,
        infer: Infer,
    ) -> list[Classification | ServiceError]:
        """Classify each image; the result of one that fails is its error. `infer` calls ModelInfer for this caller.

        `read` copies an image's content out of the request. It runs on a decoder thread, after every check.

        Raises:
            ServiceError: the request is invalid, or no image was classified and not every image is invalid.
        """
        count = len(images)
        if not 1 <= count <= MAX_IMAGES:
            raise InvalidArgument("images", f"images expected 1 to {MAX_IMAGES}, got {count}")
        key = secrets.token_hex(8)  # so that all images of a call go to the same version
        model = self._registry.get(model_name, version, key)
        spec = model.spec
        shape, output = image_shape(spec), class_output(spec)

        def prepare(image: Image) -> bytes:
            try:
                pixels = _fit(read(image), shape, fit)
            except InvalidArgument as error:
                model.statistics.record_failure(error.code.name, 0.0)  # counted here: ModelInfer is not called
                raise
            return _infer_request(model_name, version, key, spec.inputs[0].name, shape, pixels)

        if self._waiting + count > MAX_WAITING_IMAGES:
            raise QueueFull(self._waiting, MAX_WAITING_IMAGES, retry_after=1.0)
        self._waiting += count
        try:
            async with asyncio.TaskGroup() as tasks:
                pending = [tasks.create_task(self._infer(image, prepare, infer)) for image in images]
        finally:
            self._waiting -= count
        responses = [task.result() for task in pending]
        errors = [response for response in responses if isinstance(response, ServiceError)]
        server_errors = [error for error in errors if error.code is not StatusCode.INVALID_ARGUMENT]
        if len(errors) == count and server_errors:
            raise server_errors[0]
        return [
            response
            if isinstance(response, ServiceError)
            else _classification(response, spec.outputs[output], output, top_k)
            for response in responses
        ]

    async def _infer(
        self, image: Image, prepare: Callable[[Image], bytes], infer: Infer
    ) -> ModelInferResponse | ServiceError:
        try:
            payload = await asyncio.get_running_loop().run_in_executor(self._decoders, prepare, image)
            return ModelInferResponse.FromString(await infer(payload))
        except ServiceError as error:
            return error
        except Exception:  # one image must not fail the others
            failed = EngineFailed()
            log.exception("image failed", error_id=failed.error_id)
            return failed


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


def _fit(source: ImageSource, shape: tuple[int, int, int], fit: int) -> NDArray[np.uint8]:
    """The image as the model's input. Runs on a decoder thread.

    Raises:
        InvalidArgument: the image cannot be used.
    """
    from service.inference import images  # here, because Pillow loads slowly and many services never classify

    try:
        match source:
            case bytes():
                image = images.decode(source)
            case RawImage():
                image = images.from_pixels(source.pixels, source.width, source.height, source.channels)
            case _:
                raise images.BadImage("expected encoded or raw, got neither")
        return images.fit(image, shape, images.Fit(fit))
    except images.BadImage as error:
        raise InvalidArgument("images", str(error)) from error


def _infer_request(
    model_name: str, version: str, key: str, input_name: str, shape: tuple[int, int, int], pixels: NDArray[np.uint8]
) -> bytes:
    """The serialised ModelInferRequest of one image."""
    message = ModelInferRequest(model_name=model_name, model_version=version)
    message.parameters["sticky_key"].string_param = key
    message.inputs.add(name=input_name, datatype="UINT8", shape=(1, *shape))
    message.raw_input_contents.append(pixels.tobytes())
    return message.SerializeToString()


def _classification(response: ModelInferResponse, tensor: TensorSpec, output: int, top_k: int) -> Classification:
    values = np.frombuffer(response.raw_output_contents[output], tensor.data_type.dtype)
    classes = [
        ClassProbability(
            class_id, tensor.labels[class_id] if class_id < len(tensor.labels) else "", float(values[class_id])
        )
        for class_id in top_classes(values, top_k).tolist()
    ]
    return Classification(response.model_name, response.model_version, classes)


def classification_strings(
    values: NDArray[np.generic], count: int, output: TensorSpec, *, batches: bool
) -> NDArray[np.generic]:
    """The `count` classes with the highest values of each row in Triton's form: "value:index" or "value:index:label".

    values: (rows, …), or (…) if the model does not batch; the result is (rows, count) or (count,).
    Source: https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_classification.md
    """
    rows = values.reshape(len(values), -1) if batches else values.reshape(1, -1)
    numbers = bfloat16_to_float(rows) if output.data_type.name == "BF16" else rows
    best = top_classes(numbers, count)
    form = "{:f}" if numbers.dtype.kind == "f" else "{:d}"
    texts = np.empty(best.shape, np.object_)
    for position, index in np.ndenumerate(best):
        text = f"{form.format(numbers[position[0], index].item())}:{index}"
        texts[position] = f"{text}:{output.labels[index]}" if index < len(output.labels) else text
    return texts if batches else texts[0]


def top_classes(values: NDArray[np.generic], count: int) -> NDArray[np.int64]:
    """The indices of the `count` highest values along the last axis, highest first."""
    return np.argsort(-values.astype(np.float64), axis=-1, kind="stable")[..., :count]


def bfloat16_to_float(bits: NDArray[np.generic]) -> NDArray[np.float32]:
    """BF16 values, given as their bits in uint16, as FP32: BF16 is the upper half of FP32."""
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)
