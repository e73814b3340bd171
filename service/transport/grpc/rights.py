"""Which right a method of inference.GRPCInferenceService needs, and for which model.

A method that names a model needs the right for that model. A list of models, with a right for some of them, has only
those. Other methods need the right for any model; LogSettings, which concerns the whole server, for every model. Not
here: what a right covers (core/auth.py), ModelInfer and ModelStreamInfer (inference/handler.py), Classify
(classifier_servicer.py).
"""

from google.protobuf.message import Message

from service.core.auth import CONTROL, INFER, Access

CONTROL_METHODS = ("RepositoryModelLoad", "RepositoryModelUnload", "LogSettings")
# The request's field that names the model.
MODEL_FIELDS = {
    "ModelReady": "name",
    "ModelMetadata": "name",
    "ModelConfig": "name",
    "ModelStatistics": "name",
    "RepositoryModelLoad": "model_name",
    "RepositoryModelUnload": "model_name",
}
# The response's field that lists models; ModelStatistics lists all of them if no name is given.
LIST_FIELDS = {"RepositoryIndex": "models", "ModelStatistics": "model_stats"}


def right_of(method: str) -> str:
    """The right that the method needs."""
    return CONTROL if method in CONTROL_METHODS else INFER


def concerned_model(method: str, request: Message) -> str | None:
    """The model for which the method's right is needed; "" for every model, None for any."""
    if method == "LogSettings":
        return ""
    model = str(getattr(request, MODEL_FIELDS[method])) if method in MODEL_FIELDS else None
    return None if model == "" and method in LIST_FIELDS else model


def keep_covered(access: Access, method: str, response: Message) -> None:
    """Remove the models that the caller has no right for from a list of models."""
    if method not in LIST_FIELDS or INFER in access.rights:
        return
    listed = getattr(response, LIST_FIELDS[method])
    kept = [model for model in listed if access.covers(INFER, model.name)]
    del listed[:]
    listed.extend(kept)
