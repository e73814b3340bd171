"""The decode cache reads a request exactly as protobuf does, or leaves it to the parser."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.core.errors import InvalidArgument
from service.inference.decode import NO_PARAMETERS, decode_inputs, decode_requested_outputs, parse
from service.inference.decode_cache import MAX_CACHED_LAYOUTS, DecodeCache
from service.inference.encode import encoder_for
from service.pb.inference_pb2 import ModelInferRequest
from tests.support.requests import infer_request
from tests.support.spec import spec_of

SPEC = spec_of("FP32")


class Model:
    """A stand-in: the cache only compares a model with another by identity."""


MODEL: Any = Model()


def request_of(rows: int = 1, *, request_id: str = "", version: str = "", fill: float = 1.0) -> ModelInferRequest:
    request = infer_request("m", x0=np.full((rows, 3), fill, np.float32))
    request.id = request_id
    request.model_version = version
    return request


def add(cache: DecodeCache, payload: bytes, spec: Any = SPEC, model: Any = MODEL) -> None:
    """Decode the request and add its layout to the cache, as the handler does."""
    request = parse(payload)
    inputs, rows = decode_inputs(request.message, spec)
    requested = decode_requested_outputs(request.message, spec)
    cache.add(payload, request, model, inputs, rows, encoder_for(spec, requested))


@given(
    rows=st.integers(1, 8),
    first=st.text(st.characters(exclude_categories=["Cs"]), max_size=140),
    second=st.text(st.characters(exclude_categories=["Cs"]), max_size=140),
    version=st.sampled_from(["", "1", "stable"]),
)
def test_a_request_with_a_known_layout_is_read_as_protobuf_reads_it(
    rows: int, first: str, second: str, version: str
) -> None:
    cache = DecodeCache()
    add(cache, request_of(rows, request_id=first, version=version).SerializeToString())
    request = request_of(rows, request_id=second, version=version, fill=7.0)
    payload = request.SerializeToString()
    found = cache.find(payload)
    if found is None:
        assert any(len(text.encode()) > 127 for text in (first, second))  # ids that are too long for the cache
        return
    (array,) = found.layout.inputs(payload, found.start)
    assert (found.name, found.version, found.id) == ("m", version, second)
    assert found.layout.rows == rows
    assert found.parameters == NO_PARAMETERS
    np.testing.assert_array_equal(array, np.full((rows, 3), 7.0, np.float32))


def test_a_request_that_differs_in_more_than_id_and_contents_is_not_found() -> None:
    cache = DecodeCache()
    cached = request_of(2, request_id="a")
    add(cache, cached.SerializeToString())
    others = [request_of(1), request_of(2, version="1"), request_of(2, request_id="b"), request_of(2), request_of(2)]
    others[2].inputs[0].datatype = "FP16"
    others[3].inputs[0].shape[1] = 4
    others[4].parameters["priority"].int64_param = 1
    for other in others:
        assert cache.find(other.SerializeToString()) is None
    assert cache.find(cached.SerializeToString()) is not None


@given(st.data())
def test_a_request_with_changed_bytes_is_read_as_protobuf_reads_it_or_not_found(data: st.DataObject) -> None:
    cache = DecodeCache()
    payload = request_of(2, request_id="abc", version="1").SerializeToString()
    add(cache, payload)
    changed = bytearray(payload)
    for _ in range(data.draw(st.integers(1, 3))):
        changed[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    found = cache.find(bytes(changed))
    if found is None:
        return
    request = parse(bytes(changed))
    (expected,), rows = decode_inputs(request.message, SPEC)
    assert (found.name, found.version, found.id) == (request.name, request.version, request.id)
    assert found.layout.rows == rows
    assert found.layout.inputs(bytes(changed), found.start)[0].tobytes() == expected.tobytes()


@given(st.binary(max_size=200))
def test_random_bytes_are_not_found(payload: bytes) -> None:
    cache = DecodeCache()
    add(cache, request_of().SerializeToString())
    assert cache.find(payload) is None


def test_an_id_that_is_not_utf_8_is_left_to_protobuf_to_refuse() -> None:
    cache = DecodeCache()
    payload = request_of(request_id="ab").SerializeToString()
    add(cache, payload)
    broken = payload.replace(b"\x1a\x02ab", b"\x1a\x02\xff\xfe")
    assert cache.find(broken) is None
    with pytest.raises(InvalidArgument):
        parse(broken)


@pytest.mark.parametrize(
    "again", [{"model_name": "other"}, {"model_version": "9"}, {"id": "x"}], ids=["name", "version", "id"]
)
def test_a_request_with_a_repeated_field_is_not_cached(again: dict[str, Any]) -> None:
    """Protobuf takes the last occurrence of a field."""
    cache = DecodeCache()
    payload = request_of(request_id="first").SerializeToString()
    at = payload.index(b"\x1a\x05first") + 7
    twice = payload[:at] + ModelInferRequest(**again).SerializeToString() + payload[at:]
    add(cache, twice)
    assert cache.find(twice) is None


@pytest.mark.parametrize("datatype", ["BYTES", "BOOL"])
def test_types_that_decoding_converts_are_not_cached(datatype: str) -> None:
    spec = spec_of(datatype)
    values = np.array([["a", "b", "c"]], np.object_) if datatype == "BYTES" else np.array([[True, False, True]])
    payload = infer_request("m", x0=values).SerializeToString()
    cache = DecodeCache()
    add(cache, payload, spec)
    assert cache.find(payload) is None


def test_a_request_with_a_sticky_key_is_not_cached_because_keys_differ_between_calls() -> None:
    request = request_of()
    request.parameters["sticky_key"].string_param = "ann"
    cache = DecodeCache()
    add(cache, request.SerializeToString())
    assert cache.find(request.SerializeToString()) is None


def test_the_cache_holds_a_limited_number_of_layouts() -> None:
    cache = DecodeCache()
    for number in range(MAX_CACHED_LAYOUTS + 1):
        add(cache, request_of(version=str(number)).SerializeToString())
    assert cache.find(request_of(version="0").SerializeToString()) is None
    assert cache.find(request_of(version=str(MAX_CACHED_LAYOUTS)).SerializeToString()) is not None


def test_the_cache_does_not_keep_an_unloaded_version_alive() -> None:
    cache = DecodeCache()
    model: Any = Model()
    payload = request_of().SerializeToString()
    add(cache, payload, model=model)
    found = cache.find(payload)
    assert found and found.layout.model() is model
    del model
    assert found.layout.model() is None
