"""A request is read without copying its images, and as protobuf reads it."""

import pytest

from service.core.errors import InvalidArgument
from service.inference.picture_work import RawImage
from service.pb import classifier_pb2 as pb
from service.transport.grpc.classifier_servicer import _source, split

FILE = b"\x89PNG" * 100
RAW = pb.RawImage(width=3, height=2, channels=1, pixels=b"123456")


def test_images_stay_where_they_are_in_the_request_and_the_rest_is_parsed() -> None:
    images = [pb.Image(encoded=FILE), pb.Image(raw=RAW), pb.Image()]
    whole = pb.ClassifyRequest(model_name="m", model_version="canary", images=images, top_k=300, fit=pb.FIT_NONE)
    payload = whole.SerializeToString()
    rest, found = split(payload)
    assert all(image.obj is payload for image in found)
    assert [bytes(image) for image in found] == [image.SerializeToString() for image in images]
    del whole.images[:]
    assert rest == whole
    assert split(b"") == (pb.ClassifyRequest(), [])


def test_fields_in_another_order_or_unknown_or_repeated_are_read_as_protobuf_reads_them() -> None:
    unknown = b"\x98\x06\x01" + b"\x9d\x06abcd" + b"\xa1\x06abcdefgh"  # fields 99 to 100: a number, 4 bytes, 8 bytes
    first = pb.ClassifyRequest(images=[pb.Image(raw=RAW)], fit=pb.FIT_RESIZE)
    second = pb.ClassifyRequest(model_name="m", fit=pb.FIT_NONE)
    payload = first.SerializeToString() + unknown + second.SerializeToString() + first.SerializeToString()
    rest, images = split(payload)
    parsed = pb.ClassifyRequest.FromString(payload)
    assert (rest.model_name, rest.fit, len(images)) == (parsed.model_name, parsed.fit, len(parsed.images))


@pytest.mark.parametrize("payload", [b"\x1a\x05ab", b"\xff" * 20, b"\x1b", b"\x0a\x01\xff", b"\x1a"])
def test_bytes_that_are_no_request_are_refused(payload: bytes) -> None:
    with pytest.raises(InvalidArgument, match=r"not a valid simplecnn\.v1\.ClassifyRequest"):
        split(payload)


def test_a_request_of_many_fields_is_refused_before_all_are_read() -> None:
    many = pb.ClassifyRequest(images=[pb.Image()] * 100_000).SerializeToString()
    with pytest.raises(InvalidArgument, match="more than 2048 fields"):
        split(many)


def test_an_images_content_is_that_of_its_last_field() -> None:
    file, raw = pb.Image(encoded=FILE).SerializeToString(), pb.Image(raw=RAW).SerializeToString()
    pixels = RawImage(b"123456", 3, 2, 1)
    cases: list[tuple[bytes, object]] = [
        (file, FILE), (raw, pixels), (b"", None), (raw + file, FILE), (file + raw, pixels),
        (file + b"\x98\x06\x01", FILE),
    ]  # fmt: skip
    for message, content in cases:
        assert _source(memoryview(message)) == content
    with pytest.raises(InvalidArgument, match=r"not a valid simplecnn\.v1\.Image"):
        _source(memoryview(b"\x0a\x05ab"))
