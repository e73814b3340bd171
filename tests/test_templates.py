"""A request that follows an earlier one is taken for what protobuf says it is, or not taken at all."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.codec import NO_PARAMETERS, parse, read_inputs, read_outputs, read_parameters
from service.errors import InvalidArgument
from service.pb.inference_pb2 import ModelInferRequest
from service.response import writer_of
from service.templates import MOST, Templates
from tests.support import infer_request
from tests.test_codec import spec_of

SPEC = spec_of("FP32")


class Model:
    """A plain stand-in: templates only ever compare a model with another."""


MODEL: Any = Model()


def request_of(rows: int = 1, *, request_id: str = "", version: str = "", fill: float = 1.0) -> ModelInferRequest:
    request = infer_request("m", x0=np.full((rows, 3), fill, np.float32))
    request.id = request_id
    request.model_version = version
    return request


def learn(templates: Templates, payload: bytes, spec: Any = SPEC, model: Any = MODEL) -> None:
    """What accepting that request does."""
    message = parse(payload)
    parameters = read_parameters(message)
    inputs, rows = read_inputs(message, spec)
    wanted = read_outputs(message, spec)
    templates.learn(payload, message, parameters, model, inputs, rows, writer_of(spec, wanted))


@given(
    rows=st.integers(1, 8),
    first=st.text(st.characters(exclude_categories=["Cs"]), max_size=140),
    second=st.text(st.characters(exclude_categories=["Cs"]), max_size=140),
    version=st.sampled_from(["", "1", "stable"]),
)
def test_a_request_that_follows_another_is_read_as_protobuf_reads_it(
    rows: int, first: str, second: str, version: str
) -> None:
    templates = Templates()
    learn(templates, request_of(rows, request_id=first, version=version).SerializeToString())
    request = request_of(rows, request_id=second, version=version, fill=7.0)
    payload = request.SerializeToString()
    found = templates.find(payload)
    if found is None:
        assert any(len(text.encode()) > 127 for text in (first, second))  # not told by their bytes
        return
    template, request_id, start = found
    (array,) = template.inputs(payload, start)
    assert (template.name, template.version, request_id) == ("m", version, second)
    assert template.rows == rows
    assert template.parameters == NO_PARAMETERS
    np.testing.assert_array_equal(array, np.full((rows, 3), 7.0, np.float32))


def test_what_differs_in_anything_else_follows_no_other() -> None:
    templates = Templates()
    known = request_of(2, request_id="a")
    learn(templates, known.SerializeToString())
    others = [request_of(1), request_of(2, version="1"), request_of(2, request_id="b"), request_of(2), request_of(2)]
    others[2].inputs[0].datatype = "FP16"
    others[3].inputs[0].shape[1] = 4
    others[4].parameters["priority"].int64_param = 1
    for other in others:
        assert templates.find(other.SerializeToString()) is None
    assert templates.find(known.SerializeToString()) is not None


@given(st.data())
def test_a_request_with_any_bytes_changed_is_read_as_protobuf_reads_it_or_not_at_all(data: st.DataObject) -> None:
    templates = Templates()
    payload = request_of(2, request_id="abc", version="1").SerializeToString()
    learn(templates, payload)
    changed = bytearray(payload)
    for _ in range(data.draw(st.integers(1, 3))):
        changed[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    found = templates.find(bytes(changed))
    if found is None:
        return
    template, request_id, start = found
    message = parse(bytes(changed))
    (expected,), rows = read_inputs(message, SPEC)
    assert (template.name, template.version, request_id) == (message.model_name, message.model_version, message.id)
    assert template.rows == rows
    assert template.inputs(bytes(changed), start)[0].tobytes() == expected.tobytes()


@given(st.binary(max_size=200))
def test_any_bytes_follow_nothing(payload: bytes) -> None:
    templates = Templates()
    learn(templates, request_of().SerializeToString())
    assert templates.find(payload) is None


def test_an_id_that_is_no_text_is_left_to_protobuf_to_refuse() -> None:
    templates = Templates()
    payload = request_of(request_id="ab").SerializeToString()
    learn(templates, payload)
    broken = payload.replace(b"\x1a\x02ab", b"\x1a\x02\xff\xfe")
    assert templates.find(broken) is None
    with pytest.raises(InvalidArgument):
        parse(broken)


@pytest.mark.parametrize(
    "again", [{"model_name": "other"}, {"model_version": "9"}, {"id": "x"}], ids=["name", "version", "id"]
)
def test_a_field_that_comes_again_later_is_not_overlooked(again: dict[str, Any]) -> None:
    """Protobuf takes the last; a client that writes so is not learned from."""
    templates = Templates()
    payload = request_of(request_id="first").SerializeToString()
    at = payload.index(b"\x1a\x05first") + 7
    twice = payload[:at] + ModelInferRequest(**again).SerializeToString() + payload[at:]
    learn(templates, twice)
    assert templates.find(twice) is None


@pytest.mark.parametrize("datatype", ["BYTES", "BOOL"])
def test_types_that_are_converted_are_not_learned(datatype: str) -> None:
    spec = spec_of(datatype)
    values = np.array([["a", "b", "c"]], np.object_) if datatype == "BYTES" else np.array([[True, False, True]])
    payload = infer_request("m", x0=values).SerializeToString()
    templates = Templates()
    learn(templates, payload, spec)
    assert templates.find(payload) is None


def test_a_sticky_key_is_not_learned_for_it_differs_from_call_to_call() -> None:
    request = request_of()
    request.parameters["sticky_key"].string_param = "ann"
    templates = Templates()
    learn(templates, request.SerializeToString())
    assert templates.find(request.SerializeToString()) is None


def test_no_more_are_kept_than_there_is_room_for() -> None:
    templates = Templates()
    for number in range(MOST + 1):
        learn(templates, request_of(version=str(number)).SerializeToString())
    assert templates.find(request_of(version="0").SerializeToString()) is None
    assert templates.find(request_of(version=str(MOST)).SerializeToString()) is not None


def test_a_version_that_is_gone_is_not_kept_alive() -> None:
    templates = Templates()
    model: Any = Model()
    payload = request_of().SerializeToString()
    learn(templates, payload, model=model)
    found = templates.find(payload)
    assert found and found[0].model() is model
    del model
    assert found[0].model() is None
