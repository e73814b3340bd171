"""Classification: pictures to labels for `Classify`, and the classification extension of ModelInfer.

Owns what a model must be to classify pictures, one ModelInfer request a picture, the bound on pictures that wait to be
decoded, and the top classes of an output. Not here: decoding and fitting pictures (images.py), the messages of the
classifier's API (transport/grpc/classifier_servicer.py), inference itself (handler.py).
"""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import structlog
from grpc import StatusCode
from numpy.typing import NDArray

from service.core.errors import EngineFailed, InvalidArgument, QueueFull, ServiceError
from service.core.spec import ModelSpec, TensorSpec
from service.models.registry import Registry
from service.pb.inference_pb2 import ModelInferRequest, ModelInferResponse

log = structlog.get_logger(__name__)

# Pictures of one call, pictures that wait in all calls together, and threads that decode them.
MAX_IMAGES, MAX_WAITING_IMAGES, DECODER_THREADS = 256, 1024, 2

# Takes a serialised ModelInferRequest and returns the serialised ModelInferResponse, or raises a ServiceError.
Infer = Callable[[bytes], Awaitable[bytes]]


@dataclass(frozen=True)
class RawImage:
    """Pixels, one byte a channel, row by row."""

    pixels: bytes
    width: int
    height: int
    channels: int


# An encoded file, raw pixels, or None for neither.
Picture = bytes | RawImage | None


@dataclass(frozen=True)
class ClassProbability:
    """One class of an answer; `label` is "" if the model has none for it."""

    class_id: int
    label: str
    probability: float


@dataclass(frozen=True)
class Classification:
    """The answer to one picture: the highest classes, and which version gave them."""

    model_name: str
    model_version: str
    classes: Sequence[ClassProbability]


class Classifier:
    """Classifies pictures, on an event loop; a few threads decode them."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._decoders = ThreadPoolExecutor(DECODER_THREADS, thread_name_prefix="decoder")
        self._waiting = 0

    def close(self) -> None:
        """Stop the threads."""
        self._decoders.shutdown(wait=False, cancel_futures=True)

    async def classify(
        self, model_name: str, version: str, pictures: Sequence[Picture], *, fit: int, top_k: int, infer: Infer
    ) -> list[Classification | ServiceError]:
        """Classify each picture; a bad one has its error in its place. `infer` calls ModelInfer for this caller.

        Raises:
            ServiceError: the request is invalid, or no picture was answered and at least one is not to blame.
        """
        count = len(pictures)
        if not 1 <= count <= MAX_IMAGES:
            raise InvalidArgument("images", f"images expected 1 to {MAX_IMAGES}, got {count}")
        key = secrets.token_hex(8)  # every picture of a call goes to the same version
        model = self._registry.get(model_name, version, key)
        spec = model.spec
        shape, output = image_shape(spec), class_output(spec)

        def prepare(picture: Picture) -> bytes:
            try:
                pixels = _fit(picture, shape, fit)
            except InvalidArgument as error:
                model.statistics.failure(error.code.name, 0.0)  # ModelInfer never sees it
                raise
            return _infer_request(model_name, version, key, spec.inputs[0].name, shape, pixels)

        if self._waiting + count > MAX_WAITING_IMAGES:
            raise QueueFull(self._waiting, MAX_WAITING_IMAGES, retry_after=1.0)
        self._waiting += count
        try:
            async with asyncio.TaskGroup() as tasks:
                pending = [tasks.create_task(self._infer(picture, prepare, infer)) for picture in pictures]
        finally:
            self._waiting -= count
        answers = [task.result() for task in pending]
        errors = [answer for answer in answers if isinstance(answer, ServiceError)]
        not_callers = [error for error in errors if error.code is not StatusCode.INVALID_ARGUMENT]
        if len(errors) == count and not_callers:
            raise not_callers[0]
        return [
            answer if isinstance(answer, ServiceError) else _classification(answer, spec.outputs[output], output, top_k)
            for answer in answers
        ]

    async def _infer(
        self, picture: Picture, prepare: Callable[[Picture], bytes], infer: Infer
    ) -> ModelInferResponse | ServiceError:
        try:
            payload = await asyncio.get_running_loop().run_in_executor(self._decoders, prepare, picture)
            return ModelInferResponse.FromString(await infer(payload))
        except ServiceError as error:
            return error
        except Exception:  # one picture must not fail the others
            failed = EngineFailed()
            log.exception("image failed", error_id=failed.error_id)
            return failed


def image_shape(spec: ModelSpec) -> tuple[int, int, int]:
    """(height, width, channels) of the model's input.

    Raises:
        InvalidArgument: the model does not take pictures.
    """
    if len(spec.inputs) == 1 and spec.batches:
        (tensor,) = spec.inputs
        if tensor.data_type.name == "UINT8" and len(tensor.shape) == 3 and tensor.shape[2] in (1, 3):
            height, width, channels = tensor.shape
            if height > 0 and width > 0:
                return height, width, channels
    found = ", ".join(f"{tensor.data_type.name} {list(tensor.shape)}" for tensor in spec.inputs)
    raise InvalidArgument(
        "model_name", f"model {spec.name!r} expected to take images UINT8 [N, height, width, 1 or 3], but takes {found}"
    )


def class_output(spec: ModelSpec) -> int:
    """The index of the output with a number for each class: the one with labels, or the only one of that form.

    Raises:
        InvalidArgument: there is none, or more than one.
    """
    outputs = [
        index
        for index, tensor in enumerate(spec.outputs)
        if tensor.data_type.dtype.kind == "f" and len(tensor.shape) == 1
    ]
    labelled = [index for index in outputs if spec.outputs[index].labels] or outputs
    if len(labelled) != 1:
        raise InvalidArgument(
            "model_name", f"model {spec.name!r} expected one output of a probability a class, but has {len(labelled)}"
        )
    return labelled[0]


def _fit(picture: Picture, shape: tuple[int, int, int], fit: int) -> NDArray[np.uint8]:
    """The pixels that the model takes. Runs on a decoder thread.

    Raises:
        InvalidArgument: the picture cannot be used.
    """
    from service.inference import images  # importing Pillow takes a moment, which many services never need

    try:
        match picture:
            case bytes():
                image = images.decode(picture)
            case RawImage():
                image = images.from_pixels(picture.pixels, picture.width, picture.height, picture.channels)
            case _:
                raise images.BadImage("expected encoded or raw, got neither")
        return images.fit(image, shape, images.Fit(fit))
    except images.BadImage as error:
        raise InvalidArgument("images", str(error)) from error


def _infer_request(
    model_name: str, version: str, key: str, input_name: str, shape: tuple[int, int, int], pixels: NDArray[np.uint8]
) -> bytes:
    """The serialised ModelInferRequest of one picture."""
    message = ModelInferRequest(model_name=model_name, model_version=version)
    message.parameters["sticky_key"].string_param = key
    message.inputs.add(name=input_name, datatype="UINT8", shape=(1, *shape))
    message.raw_input_contents.append(pixels.tobytes())
    return message.SerializeToString()


def _classification(answer: ModelInferResponse, tensor: TensorSpec, output: int, top_k: int) -> Classification:
    values = np.frombuffer(answer.raw_output_contents[output], tensor.data_type.dtype)
    classes = [
        ClassProbability(
            class_id, tensor.labels[class_id] if class_id < len(tensor.labels) else "", float(values[class_id])
        )
        for class_id in top_classes(values, top_k).tolist()
    ]
    return Classification(answer.model_name, answer.model_version, classes)


def classification_strings(
    values: NDArray[np.generic], count: int, output: TensorSpec, *, batches: bool
) -> NDArray[np.generic]:
    """The `count` highest classes of each row in Triton's form: "value:index" or "value:index:label".

    values: (rows, …), or (…) where the model does not batch; the result is (rows, count) or (count,).
    Source: https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_classification.md
    """
    rows = values.reshape(len(values), -1) if batches else values.reshape(1, -1)
    numbers = bfloat16_to_float(rows) if output.data_type.name == "BF16" else rows
    best = top_classes(numbers, count)
    form = "{:f}" if numbers.dtype.kind == "f" else "{:d}"
    texts = np.empty(best.shape, np.object_)
    for place, index in np.ndenumerate(best):
        text = f"{form.format(numbers[place[0], index].item())}:{index}"
        texts[place] = f"{text}:{output.labels[index]}" if index < len(output.labels) else text
    return texts if batches else texts[0]


def top_classes(values: NDArray[np.generic], count: int) -> NDArray[np.int64]:
    """The indices of the `count` highest values along the last axis, highest first."""
    return np.argsort(-values.astype(np.float64), axis=-1, kind="stable")[..., :count]


def bfloat16_to_float(bits: NDArray[np.generic]) -> NDArray[np.float32]:
    """BF16 bits, held in uint16, as FP32, of which they are the upper half."""
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)
