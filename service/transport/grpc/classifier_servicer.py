"""simplecnn.v1.ImageClassifier: converts the messages of Classify.

Not here: classification itself (inference/classification.py).
"""

from service.core.errors import InvalidArgument, ServiceError
from service.inference.classification import Classification, Classifier, Infer
from service.inference.picture_work import ImageSource, RawImage
from service.pb import classifier_pb2 as pb
from service.pictures.fit import DRAWING, NONE, RESIZE, Fit

# None: the model's own.
FITS = {pb.FIT_AUTO: None, pb.FIT_DRAWING: Fit(DRAWING), pb.FIT_RESIZE: Fit(RESIZE), pb.FIT_NONE: Fit(NONE)}


class ClassifierServicer:
    """The method Classify, on an event loop."""

    def __init__(self, classifier: Classifier) -> None:
        self._classifier = classifier

    async def Classify(
        self, request: pb.ClassifyRequest, infer: Infer, *, size: int, deadline: float | None
    ) -> pb.ClassifyResponse:
        """Classify each image. `infer` computes on behalf of this caller; `size` is the request's, in bytes.

        Raises:
            ServiceError: the request is invalid, or no image was classified and not every image is invalid.
        """
        if request.fit not in FITS:
            raise InvalidArgument("fit", f"fit expected one of {pb.Fit.keys()}, got {request.fit}")
        answers = await self._classifier.classify(
            request.model_name,
            request.model_version,
            request.images,
            _source,
            fit=FITS[request.fit],
            top_k=max(request.top_k, 1),
            infer=infer,
            size=size,
            deadline=deadline,
        )
        return pb.ClassifyResponse(results=[_result(index, answer) for index, answer in enumerate(answers)])


def _source(image: pb.Image) -> ImageSource:
    match image.WhichOneof("content"):
        case "encoded":
            return image.encoded
        case "raw":
            return RawImage(image.raw.pixels, image.raw.width, image.raw.height, image.raw.channels)
        case _:
            return None


def _result(index: int, answer: Classification | ServiceError) -> pb.Result:
    if isinstance(answer, ServiceError):
        return pb.Result(index=index, error=pb.Error(code=answer.code.value[0], message=answer.message))
    classes = [
        pb.Class(class_id=found.class_id, label=found.label, probability=found.probability) for found in answer.classes
    ]
    return pb.Result(index=index, model_name=answer.model_name, model_version=answer.model_version, classes=classes)
