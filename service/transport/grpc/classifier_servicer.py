"""simplecnn.v1.ImageClassifier: converts the messages of Classify.

Owns reading a request without copying its images; the decoder threads copy them, one by one. Not here: classification
itself (inference/classification.py).
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence

from google.protobuf.message import DecodeError, Message

from service.core.errors import InvalidArgument, ServiceError
from service.core.wire import Field, fields
from service.inference.classification import Classification, Classifier, Infer
from service.inference.picture_work import ImageSource, RawImage
from service.pb import classifier_pb2 as pb
from service.pictures.fit import DRAWING, NONE, RESIZE, Fit

# None: the model's own.
FITS = {pb.FIT_AUTO: None, pb.FIT_DRAWING: Fit(DRAWING), pb.FIT_RESIZE: Fit(RESIZE), pb.FIT_NONE: Fit(NONE)}
# Fields of a request, its images included, at most: each takes microseconds to read, in which nothing else is served.
MAX_FIELDS = 2048


class ClassifierServicer:
    """The method Classify, on an event loop."""

    def __init__(self, classifier: Classifier) -> None:
        self._classifier = classifier

    async def Classify(
        self, payload: bytes, infer: Infer, deadline: float | None, check_right: Callable[[str], None]
    ) -> pb.ClassifyResponse:
        """Classify each image of a serialised request.

        `infer` computes on behalf of this caller; `check_right` raises PermissionDenied if it may not use a model.

        Raises:
            ServiceError: the request is invalid or not allowed, or no image was classified and not all are invalid.
        """
        request, images = split(payload)
        check_right(request.model_name)
        if request.fit not in FITS:
            raise InvalidArgument("fit", f"fit expected one of {pb.Fit.keys()}, got {request.fit}")
        answers = await self._classifier.classify(
            request.model_name,
            request.model_version,
            images,
            _source,
            fit=FITS[request.fit],
            top_k=max(request.top_k, 1),
            infer=infer,
            size=len(payload),
            deadline=deadline,
        )
        return pb.ClassifyResponse(results=[_result(index, answer) for index, answer in enumerate(answers)])


def split(payload: bytes) -> tuple[pb.ClassifyRequest, Sequence[memoryview]]:
    """The request without its images, and each image's serialised message, which is not copied.

    A request may have tens of megabytes: parsing it would stop every other call for as many milliseconds.

    Raises:
        InvalidArgument: the bytes are not a message.
    """
    number = pb.ClassifyRequest.IMAGES_FIELD_NUMBER
    images: list[memoryview] = []
    others: list[memoryview] = []
    with _parsing(pb.ClassifyRequest):
        for field in fields(memoryview(payload)):
            if field.number == number and isinstance(field.content, memoryview):
                images.append(field.content)
            else:
                others.append(field.whole)
            if len(images) + len(others) > MAX_FIELDS:
                raise InvalidArgument("", f"the request has more than {MAX_FIELDS} fields")
        return pb.ClassifyRequest.FromString(b"".join(others)), images


def _source(message: memoryview) -> ImageSource:
    """Copy the content out of an image's message."""
    with _parsing(pb.Image):
        match next(fields(message), None):
            case Field(number=pb.Image.ENCODED_FIELD_NUMBER, content=memoryview() as encoded, whole=whole) if len(
                whole
            ) == len(message):
                return bytes(encoded)
        image = pb.Image.FromString(bytes(message))
    match image.WhichOneof("content"):
        case "encoded":
            return bytes(image.encoded)
        case "raw":
            return RawImage(image.raw.pixels, image.raw.width, image.raw.height, image.raw.channels)
        case _:
            return None


@contextlib.contextmanager
def _parsing(message: type[Message]) -> Iterator[None]:
    try:
        yield
    except (DecodeError, ValueError) as error:
        raise InvalidArgument("", f"the message is not a valid {message.DESCRIPTOR.full_name}") from error


def _result(index: int, answer: Classification | ServiceError) -> pb.Result:
    if isinstance(answer, ServiceError):
        return pb.Result(index=index, error=pb.Error(code=answer.code.value[0], message=answer.message))
    classes = [
        pb.Class(class_id=found.class_id, label=found.label, probability=found.probability) for found in answer.classes
    ]
    return pb.Result(index=index, model_name=answer.model_name, model_version=answer.model_version, classes=classes)
