"""The options of the edge's configuration: uncommented as an operator does it, each does what it says."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from service.client import Client
from service.pb import health_pb2, health_pb2_grpc
from service.pb.inference_pb2_grpc import GRPCInferenceServiceStub
from tests.support.behind_edge import BehindEdge, behind_edge
from tests.support.edge import copy_of_edge
from tests.support.http import ask
from tests.support.local_service import local_service
from tests.support.pictures import png
from tests.support.processes import free_port
from tests.support.refusal import Refusal
from tests.support.requests import infer_request, outputs_of
from tests.support.waiting import wait_until
from tests.support.web_tokens import Issuer

X = np.arange(4, dtype=np.float32).reshape(1, 4)
REQUEST = infer_request("double", x=X)
METADATA = "/inference.GRPCInferenceService/ModelMetadata"


def uncomment(path: Path, option: str, **replacements: str) -> None:
    """Uncomment the block below the line that starts with the option's name, and fill in what an operator fills in."""
    lines = [*path.read_text().splitlines(), ""]
    (start,) = [index for index, line in enumerate(lines) if line.lstrip().startswith(f"# --- option: {option}")]
    margin = lines[start].partition("#")[0]
    index = start + 1
    while lines[index].startswith(f"{margin}# ") and "# --- option:" not in lines[index]:
        if not lines[index].startswith(f"{margin}# ---"):
            lines[index] = lines[index].replace("# ", "", 1)
        index += 1
    assert index > start + 1, "nothing was uncommented"
    text = "\n".join(lines) + "\n"
    for old, new in replacements.items():
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    path.write_text(text)


@contextmanager
def with_edge(root: Path) -> Iterator[tuple[BehindEdge, GRPCInferenceServiceStub]]:
    """A service behind the edge whose files lie below root, and a client of it."""
    with behind_edge(root, root=root) as behind, grpc.insecure_channel(behind.address) as channel:
        yield behind, GRPCInferenceServiceStub(channel)


def refusal(call: Callable[[], Any]) -> Refusal:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return Refusal(caught.value)


def test_web_tokens_of_an_issuer_are_asked_for_and_checked(tmp_path: Path) -> None:
    edge = copy_of_edge(tmp_path)
    uncomment(edge / "listener.yaml", "JSON Web Tokens")
    issuer = Issuer(tmp_path)
    (edge / "jwks.json").write_text(issuer.keys())
    right = {"iss": "https://issuer.example.com", "aud": "simplecnn", "sub": "somebody"}
    stranger = tmp_path / "stranger"
    stranger.mkdir()
    with with_edge(tmp_path) as (behind, stub):

        def outcome(token: str | None) -> tuple[str, int]:
            """The status over gRPC, and over HTTP with JSON."""
            sent = {} if token is None else {"authorization": f"Bearer {token}"}
            try:
                answer = stub.ModelInfer(REQUEST, metadata=tuple(sent.items()))
                code = "OK" if answer.model_name == "double" else "?"
            except grpc.RpcError as error:
                code = Refusal(error).code.name
            return code, ask(behind.address, "POST", METADATA, b'{"name": "double"}', sent).status

        assert outcome(issuer.token(right)) == ("OK", 200)
        for token in (
            None,
            "nonsense",
            issuer.token(right, seconds=-600),
            issuer.token(right | {"iss": "https://other.example.com"}),
            Issuer(stranger).token(right),
        ):
            assert outcome(token) == ("UNAUTHENTICATED", 401), token
        assert outcome(issuer.token(right | {"aud": "another service"})) == ("PERMISSION_DENIED", 403)
        body = ask(behind.address, "POST", METADATA, b"{}").body
        assert b'"code":16' in body and b"Jwt is missing" in body
        with grpc.insecure_channel(behind.address) as channel:
            health = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
        assert health.status == health_pb2.HealthCheckResponse.SERVING
        assert ask(behind.address, "GET", "/livez").status == 200
        for before in ("/grpc.health.v1.Health/..", "/livez/..", "/grpc.health.v1.Health/%2e%2e"):
            trick = before + METADATA
            assert ask(behind.address, "POST", trick, b"{}").status == 401, trick


def test_each_client_address_has_a_rate_of_its_own(tmp_path: Path) -> None:
    edge = copy_of_edge(tmp_path)
    slower = {"max_tokens: 200, tokens_per_fill: 100": "max_tokens: 5, tokens_per_fill: 1"}
    uncomment(edge / "listener.yaml", "100 calls a second", **slower)
    with with_edge(tmp_path) as (behind, stub):
        started = time.monotonic()
        errors: list[Refusal] = []
        for _ in range(30):
            try:
                stub.ModelInfer(REQUEST)
            except grpc.RpcError as error:
                errors.append(Refusal(error))
        answered = 30 - len(errors)
        assert 5 <= answered <= 5 + int(time.monotonic() - started) + 1
        assert {error.code for error in errors} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
        assert {error.retry_seconds() for error in errors} == {1.0}
        refused = ask(behind.address, "POST", METADATA, b'{"name": "double"}')
        assert refused.status == 429 and b'"code":8' in refused.body and refused.headers["retry-after"] == "1"
        another = ask(behind.address, "POST", METADATA, b'{"name": "double"}', source="127.0.0.2")
        assert another.status == 200
        with Client(behind.address) as client:
            picture = png(4, 4, rows=b"\0\xff\xff\xff\xff" * 4)
            (result,) = client.classify("brightness", [picture], fit="none")  # the client waits as it is told
            assert result.classes[0].label == "light"


def test_a_tenth_of_the_calls_is_mirrored_and_changes_no_answer(tmp_path: Path) -> None:
    shadow_folder = tmp_path / "next"
    shadow_folder.mkdir()
    edge = copy_of_edge(tmp_path)
    uncomment(edge / "listener.yaml", "shadow traffic")
    # Its service has no model, so its answers are errors that nobody may see.
    with local_service(shadow_folder, "native") as shadow:
        port = shadow.address.rpartition(":")[2]
        place = {"address: service-next, port_value: 8001": f"address: 127.0.0.1, port_value: {port}"}
        uncomment(edge / "cluster.yaml", "shadow traffic", **place)
        with with_edge(tmp_path) as (_, stub):
            answer_many(stub, 300)
            codes = shadow.server.handler.unrouted_statistics.codes
            wait_until(lambda: codes["NOT_FOUND"] >= 10, "calls are mirrored")
            assert codes["NOT_FOUND"] <= 60, "of 300, with a deviation of 5"
            shadow.begin_shut_down()
            answer_many(stub, 100)


def answer_many(stub: GRPCInferenceServiceStub, calls: int) -> None:
    for index in range(calls):
        answer = stub.ModelInfer(infer_request("double", x=X + index), timeout=10)
        np.testing.assert_array_equal(outputs_of(answer)["y"], 2 * (X + index))


def test_a_shadow_that_was_never_there_changes_nothing(tmp_path: Path) -> None:
    edge = copy_of_edge(tmp_path)
    uncomment(edge / "listener.yaml", "shadow traffic", **{"numerator: 10}": "numerator: 100}"})
    place = {"address: service-next, port_value: 8001": f"address: 127.0.0.1, port_value: {free_port()}"}
    uncomment(edge / "cluster.yaml", "shadow traffic", **place)
    with with_edge(tmp_path) as (_, stub):
        answer_many(stub, 100)
