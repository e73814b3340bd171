"""Errors as metadata: whatever their texts repeat, the text and its details fit into what every client takes."""

import base64

import pytest
from google.rpc.error_details_pb2 import BadRequest
from google.rpc.status_pb2 import Status
from hypothesis import given
from hypothesis import strategies as st

from service.core import errors
from service.core.texts import sent_bytes

# Any text, surrogates and controls included, mostly longer than the limits.
TEXTS = st.text(st.characters(), min_size=1).map(lambda text: text * 999)


def metadata_bytes(error: errors.ServiceError) -> int:
    """The length of grpc-message and of the details in base64."""
    return sent_bytes(error.message) + sum(len(base64.b64encode(value)) for _, value in error.trailing_metadata())


@pytest.mark.parametrize("kind", [errors.NotFound, errors.NotReady, errors.DeadlineExceeded, errors.Unimplemented])
@given(text=TEXTS)
def test_an_error_without_details_fits_in_1_kib(kind: type[errors.ServiceError], text: str) -> None:
    error = kind(text)
    assert metadata_bytes(error) <= errors.MAX_METADATA_BYTES
    assert str(error) == error.message


@given(field=TEXTS, text=TEXTS)
def test_an_invalid_argument_fits_in_1_kib_with_its_field_and_description(field: str, text: str) -> None:
    error = errors.InvalidArgument(field, text)
    assert metadata_bytes(error) <= errors.MAX_METADATA_BYTES
    ((_, value),) = error.trailing_metadata()
    status = Status.FromString(value)
    assert status.message == error.message, "gRPC's own helper refuses details whose message is another"
    detail = BadRequest()
    assert status.details[0].Unpack(detail)
    assert (detail.field_violations[0].field, detail.field_violations[0].description) == (error.field, error.message)


def test_the_largest_refusal_of_a_full_queue_fits_in_1_kib() -> None:
    assert metadata_bytes(errors.QueueFull(2**63, 2**63, retry_after=1e9)) <= errors.MAX_METADATA_BYTES
