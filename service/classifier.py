"""simplecnn.v1.ImageClassifier: pictures in, labels out.

Owns: from a ClassifyRequest to one ModelInfer request a picture, which then goes the way of all requests, and from
their answers to the response; bounds on the pictures that are being decoded. Does not own: pictures (images.py).
"""

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import structlog
from grpc import StatusCode

from service.errors import EngineFailed, InvalidArgument, QueueFull, ServiceError
from service.model import ModelSpec
from service.pb import classifier_pb2 as pb
from service.pb.inference_pb2 import ModelInferRequest, ModelInferResponse
from service.registry import Registry
from service.response import largest

log = structlog.get_logger(__name__)

# Images of one call, and of all calls together; each is decoded by one of a few threads.
MAX_IMAGES, MAX_WAITING, DECODERS = 256, 1024, 2

# Takes a serialised ModelInferRequest and gives the serialised ModelInferResponse, or raises a ServiceError.
Infer = Callable[[bytes], Awaitable[bytes]]


class ClassifierServicer:
    """The one method, on an event loop."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._decoders = ThreadPoolExecutor(DECODERS, thread_name_prefix="decoder")
        self._waiting = 0

    def close(self) -> None:
        """End the threads."""
        self._decoders.shutdown(wait=False, cancel_futures=True)

    async def Classify(self, request: pb.ClassifyRequest, infer: Infer) -> pb.ClassifyResponse:
        """Classify each image. `infer` is how ModelInfer is called on behalf of this caller.

        Raises:
            ServiceError: the request makes no sense, or no image was answered and none of them is to blame.
        """
        count = len(request.images)
        if not 1 <= count <= MAX_IMAGES:
            raise InvalidArgument("images", f"images expected 1 to {MAX_IMAGES}, got {count}")
        if request.fit not in pb.Fit.values():
            raise InvalidArgument("fit", f"fit expected one of {pb.Fit.keys()}, got {request.fit}")
        key = secrets.token_hex(8)  # all of one call go to the same version
        model = self._registry.get(request.model_name, request.model_version, key)
        spec = model.spec
        shape, output = _image_shape(spec), _class_output(spec)

        def prepare(image: pb.Image) -> bytes:
            try:
                return _infer_request(image, request, spec.inputs[0].name, shape, key)
            except InvalidArgument as error:
                model.statistics.failure(error.code.name, 0.0)  # it will not come to be counted as a request
                raise

        if self._waiting + count > MAX_WAITING:
            raise QueueFull(self._waiting, MAX_WAITING, retry_after=1.0)
        self._waiting += count
        try:
            async with asyncio.TaskGroup() as tasks:
                pending = [tasks.create_task(self._classify(image, prepare, infer)) for image in request.images]
        finally:
            self._waiting -= count
        answers = [task.result() for task in pending]
        errors = [answer for answer in answers if isinstance(answer, ServiceError)]
        blameless = [error for error in errors if error.code is not StatusCode.INVALID_ARGUMENT]
        if len(errors) == count and blameless:
            raise blameless[0]
        return pb.ClassifyResponse(
            results=[
                _result(index, answer, spec, output, max(request.top_k, 1)) for index, answer in enumerate(answers)
            ]
        )

    async def _classify(
        self, image: pb.Image, prepare: Callable[[pb.Image], bytes], infer: Infer
    ) -> ModelInferResponse | ServiceError:
        try:
            payload = await asyncio.get_running_loop().run_in_executor(self._decoders, prepare, image)
            return ModelInferResponse.FromString(await infer(payload))
        except ServiceError as error:
            return error
        except Exception:  # whatever one image does must not fail the others
            failed = EngineFailed()
            log.exception("an image failed", error_id=failed.error_id)
            return failed


def _image_shape(spec: ModelSpec) -> tuple[int, int, int]:
    """(height, width, channels) of the model's input."""
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


def _class_output(spec: ModelSpec) -> int:
    """The index of the output that has a number for each class: the one with labels, or the only one of that form."""
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


def _infer_request(
    image: pb.Image, request: pb.ClassifyRequest, input_name: str, shape: tuple[int, int, int], key: str
) -> bytes:
    """The serialised request for one image. Runs on a decoder's thread."""
    from service.images import BadImage, Fit, decode, fit, from_pixels  # Pillow takes a moment, and not all need it

    try:
        match image.WhichOneof("content"):
            case "encoded":
                picture = decode(image.encoded)
            case "raw":
                raw = image.raw
                picture = from_pixels(raw.pixels, raw.width, raw.height, raw.channels)
            case _:
                raise BadImage("expected encoded or raw, got neither")
        pixels = fit(picture, shape, Fit(request.fit))
    except BadImage as error:
        raise InvalidArgument("images", str(error)) from error
    message = ModelInferRequest(model_name=request.model_name, model_version=request.model_version)
    message.parameters["sticky_key"].string_param = key
    message.inputs.add(name=input_name, datatype="UINT8", shape=(1, *shape))
    message.raw_input_contents.append(pixels.tobytes())
    return message.SerializeToString()


def _result(index: int, answer: ModelInferResponse | ServiceError, spec: ModelSpec, output: int, top: int) -> pb.Result:
    if isinstance(answer, ServiceError):
        return pb.Result(index=index, error=pb.Error(code=answer.code.value[0], message=answer.message))
    result = pb.Result(index=index, model_name=answer.model_name, model_version=answer.model_version)
    tensor = spec.outputs[output]
    values = np.frombuffer(answer.raw_output_contents[output], tensor.data_type.dtype)
    for number in largest(values, top).tolist():
        label = tensor.labels[number] if number < len(tensor.labels) else ""
        result.classes.add(class_id=number, label=label, probability=float(values[number]))
    return result
