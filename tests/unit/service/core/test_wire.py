"""Serialised messages that would take many times their size are found before they are parsed."""

import numpy as np
import pytest

from service.core.wire import FREE_BYTES, MAX_FIELDS, expansion
from service.pb.inference_pb2 import InferTensorContents, ModelInferRequest
from tests.support.requests import infer_request

RAW = ModelInferRequest.RAW_INPUT_CONTENTS_FIELD_NUMBER


def test_a_large_tensor_takes_as_much_as_its_bytes() -> None:
    request = infer_request("m", x=np.zeros(2 * FREE_BYTES, np.uint8))
    assert expansion(request.SerializeToString(), RAW) == ""


@pytest.mark.parametrize(
    "payload",
    [
        b"\x2a\x00" * FREE_BYTES,  # inputs without a name
        b"\x3a\x00" * FREE_BYTES,  # raw contents of no bytes
        ModelInferRequest(
            inputs=[ModelInferRequest.InferInputTensor(contents=InferTensorContents(bytes_contents=[b""] * FREE_BYTES))]
        ).SerializeToString(),
        b"\x2a\x00" * FREE_BYTES + b"\xff",  # and no message at its end
    ],
    ids=["empty inputs", "empty contents", "empty elements", "no message"],
)
def test_a_large_message_of_small_fields_is_found_after_few_of_them(payload: bytes) -> None:
    assert "may have at most" in expansion(payload, RAW)


def test_a_small_message_is_not_looked_at_and_what_is_no_message_is_left_to_the_parser() -> None:
    assert expansion(b"\x2a\x00" * MAX_FIELDS * 2, RAW) == ""
    assert expansion(b"\xff" * 2 * FREE_BYTES, RAW) == ""
