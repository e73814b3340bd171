"""Which right a method needs, and for which model."""

import pytest
from google.protobuf.message_factory import GetMessageClass

from service.core.auth import FULL_ACCESS, Access
from service.pb import inference_pb2 as pb
from service.transport.grpc.rights import LIST_FIELDS, MODEL_FIELDS, concerned_model, keep_covered, right_of

METHODS = {method.name: method for method in pb.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods}
# Of tracing and shared memory, which are not offered: their names are not models, or name nothing that is there.
NOT_OFFERED = ("TraceSetting", "SharedMemory")
OWN = ("ModelInfer", "ModelStreamInfer")  # checked by the handler


def test_every_method_whose_request_names_a_model_is_checked_for_that_model() -> None:
    """Fails for a new method that is forgotten here, and would be open to every token."""
    naming = {
        name: field
        for name, method in METHODS.items()
        for field in ("name", "model_name")
        if field in method.input_type.fields_by_name
        and name not in OWN
        and not any(part in name for part in NOT_OFFERED)
    }
    assert naming == MODEL_FIELDS


def test_every_method_that_lists_models_is_known() -> None:
    listing = {
        name: field
        for name, method in METHODS.items()
        for field in ("models", "model_stats")
        if field in method.output_type.fields_by_name
    }
    assert listing == LIST_FIELDS


@pytest.mark.parametrize(("method", "field"), MODEL_FIELDS.items())
def test_the_model_of_a_call_is_the_one_that_it_names(method: str, field: str) -> None:
    request = GetMessageClass(METHODS[method].input_type)
    assert concerned_model(method, request(**{field: "double"})) == "double"
    assert concerned_model(method, request()) == (None if method == "ModelStatistics" else "")


def test_log_settings_concern_every_model_and_metadata_of_the_server_any() -> None:
    assert concerned_model("LogSettings", pb.LogSettingsRequest()) == ""
    assert right_of("LogSettings") == right_of("RepositoryModelLoad") == "control"
    for method in ("ServerLive", "ServerReady", "ServerMetadata", "RepositoryIndex"):
        assert right_of(method) == "infer"
        assert concerned_model(method, GetMessageClass(METHODS[method].input_type)()) is None


def test_a_list_keeps_the_models_that_the_caller_has_a_right_for() -> None:
    def listed(access: Access) -> list[str]:
        response = pb.RepositoryIndexResponse()
        for name in ("a", "b", "a"):
            response.models.add(name=name)
        keep_covered(access, "RepositoryIndex", response)
        return [model.name for model in response.models]

    assert listed(FULL_ACCESS) == ["a", "b", "a"]
    assert listed(Access(frozenset({"infer:a", "control:b"}))) == ["a", "a"]
