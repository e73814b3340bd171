"""The errors that callers see, case by case, on both gRPC servers: status, message and rich details."""

import functools
import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from service.pb import inference_pb2 as pb
from tests.support.http2 import MODEL_INFER, RawCall
from tests.support.local_service import Gate, LocalService, local_service
from tests.support.models import add_version, doubling_model
from tests.support.refusal import Refusal
from tests.support.requests import infer_request, outputs_of
from tests.support.waiting import wait_until

X = np.arange(4, dtype=np.float32).reshape(1, 4)
METADATA = "/inference.GRPCInferenceService/ServerMetadata"


@pytest.fixture
def service(toys: Path, grpc_server: str) -> Iterator[LocalService]:
    with local_service(toys, grpc_server) as service:
        yield service


def refusal(service: LocalService, request: pb.ModelInferRequest, **call: float) -> Refusal:
    with pytest.raises(grpc.RpcError) as caught:
        service.stub.ModelInfer(request, **call)
    return Refusal(caught.value)


def test_a_valid_request_is_answered_with_its_id(service: LocalService) -> None:
    response = service.stub.ModelInfer(infer_request("double", "r-1", x=X))
    assert (response.id, response.model_name, response.model_version) == ("r-1", "double", "1")
    np.testing.assert_array_equal(outputs_of(response)["y"], 2 * X)


@pytest.mark.parametrize(("name", "version"), [("absent", ""), ("double", "7"), ("double", "01"), ("double", "x")])
def test_an_unknown_model_or_version_is_not_found(service: LocalService, name: str, version: str) -> None:
    request = infer_request(name, x=X)
    request.model_version = version
    error = refusal(service, request)
    assert error.code is grpc.StatusCode.NOT_FOUND
    assert name in error.text and version in error.text
    assert ("'double'" if name == "absent" else "'1'") in error.text, "the message does not name what exists"


def test_a_call_without_a_message_is_an_internal_error(service: LocalService) -> None:
    for path in (MODEL_INFER, METADATA):
        with RawCall(service.address, path) as call:
            code, text = call.end().status()
        assert code is grpc.StatusCode.INTERNAL and "message" in text, path


def test_a_message_that_cannot_be_parsed_is_an_invalid_argument(service: LocalService) -> None:
    for method in ("ModelInfer", "ModelMetadata"):
        call: Any = service.channel.unary_unary(f"/inference.GRPCInferenceService/{method}")
        with pytest.raises(grpc.RpcError) as caught:
            call(b"\xff\xff\xff not protobuf")
        error = Refusal(caught.value)
        assert error.code is grpc.StatusCode.INVALID_ARGUMENT
        assert f"inference.{method}Request" in error.text


def unknown_input() -> pb.ModelInferRequest:
    return infer_request("double", z=X)


def missing_input() -> pb.ModelInferRequest:
    return pb.ModelInferRequest(model_name="double")


def repeated_input() -> pb.ModelInferRequest:
    request = infer_request("double", x=X)
    request.inputs.add().CopyFrom(request.inputs[0])
    request.raw_input_contents.append(request.raw_input_contents[0])
    return request


def unknown_output() -> pb.ModelInferRequest:
    request = infer_request("double", x=X)
    request.outputs.add(name="z")
    return request


def repeated_output() -> pb.ModelInferRequest:
    request = infer_request("double", x=X)
    request.outputs.add(name="y")
    request.outputs.add(name="y")
    return request


def wrong_datatype() -> pb.ModelInferRequest:
    return infer_request("double", x=X.astype(np.int32))


def wrong_rank() -> pb.ModelInferRequest:
    return infer_request("double", x=X[0])


def wrong_shape() -> pb.ModelInferRequest:
    return infer_request("double", x=np.zeros((1, 5), np.float32))


def negative_axis() -> pb.ModelInferRequest:
    request = infer_request("double", x=X)
    request.inputs[0].shape[:] = [-1, 4]
    return request


def wrong_length() -> pb.ModelInferRequest:
    request = infer_request("double", x=X)
    request.raw_input_contents[0] = b"1234567"
    return request


def zero_rows() -> pb.ModelInferRequest:
    return infer_request("double", x=np.zeros((0, 4), np.float32))


def too_many_rows() -> pb.ModelInferRequest:
    return infer_request("double", x=np.zeros((9, 4), np.float32))


def raw_and_typed_contents() -> pb.ModelInferRequest:
    request = infer_request("double", x=X)
    request.inputs[0].contents.fp32_contents.extend(X.ravel().tolist())
    return request


def no_contents() -> pb.ModelInferRequest:
    request = infer_request("double", x=X)
    del request.raw_input_contents[:]
    return request


def too_many_raw_contents() -> pb.ModelInferRequest:
    request = infer_request("double", x=X)
    request.raw_input_contents.append(b"")
    return request


def contents_of_another_type() -> pb.ModelInferRequest:
    request = no_contents()
    request.inputs[0].contents.int_contents.extend([1, 2, 3, 4])
    return request


@pytest.mark.parametrize(
    ("request_", "field", "parts"),
    [
        (unknown_input(), "inputs[0].name", ["'z'", "['x']"]),
        (missing_input(), "inputs", ["'x'", "missing"]),
        (repeated_input(), "inputs[1].name", ["'x'", "twice"]),
        (unknown_output(), "outputs[0].name", ["'z'", "['y']"]),
        (repeated_output(), "outputs[1].name", ["'y'", "twice"]),
        (wrong_datatype(), "x.datatype", ["'x'", "expected FP32", "got INT32"]),
        (wrong_rank(), "x.shape", ["'x'", "expected [-1, 4]", "got [4]"]),
        (wrong_shape(), "x.shape", ["'x'", "expected [-1, 4]", "got [1, 5]"]),
        (negative_axis(), "x.shape", ["1 to 8 rows", "got -1 rows"]),
        (wrong_length(), "x.bytes", ["'x'", "expected 16", "got 7"]),
        (zero_rows(), "x.shape", ["1 to 8 rows", "got 0 rows"]),
        (too_many_rows(), "x.shape", ["1 to 8 rows", "got 9 rows"]),
        (raw_and_typed_contents(), "x.contents", ["'x'", "both"]),
        (no_contents(), "x.contents", ["'x'", "neither"]),
        (too_many_raw_contents(), "raw_input_contents", ["2 entries for 1 inputs"]),
        (contents_of_another_type(), "x.fp32_contents", ["expected 4 values", "got 0"]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_invalid_request_is_an_invalid_argument_that_names_the_field(
    service: LocalService, request_: pb.ModelInferRequest, field: str, parts: list[str]
) -> None:
    error = refusal(service, request_)
    assert error.code is grpc.StatusCode.INVALID_ARGUMENT
    assert error.fields() == [field]
    for part in parts:
        assert part in error.text
    np.testing.assert_array_equal(
        outputs_of(service.stub.ModelInfer(infer_request("double", x=X)))["y"],
        2 * X,
        "the next request got a wrong answer",
    )


def test_a_message_over_the_limit_is_refused_with_the_limit(toys: Path, grpc_server: str) -> None:
    with local_service(toys, grpc_server, max_message_bytes=1024) as service:
        request = infer_request("double", x=X)
        request.parameters["padding"].string_param = "p" * 2000
        error = refusal(service, request)
        assert error.code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "1024" in error.text


def test_a_full_queue_refuses_at_once_and_says_when_to_try_again(toys: Path, grpc_server: str, gate: Gate) -> None:
    with local_service(toys, grpc_server) as service, ThreadPoolExecutor(8) as pool:
        gate.hold()
        running = pool.submit(service.stub.ModelInfer, infer_request("double", x=X))
        gate.wait_for(1)
        eight = infer_request("double", x=np.ones((8, 4), np.float32))
        waiting = [pool.submit(service.stub.ModelInfer, eight) for _ in range(2)]
        model = service.server.registry.get("double")
        wait_until(lambda: model.batcher.queued_rows == 16, "16 rows are queued")
        error = refusal(service, infer_request("double", x=X), timeout=10)
        gate.open()
        assert error.code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "16 rows wait, the limit is 16" in error.text
        assert error.retry_seconds() >= 0
        for call in (running, *waiting):
            assert (outputs_of(call.result())["y"] % 2 == 0).all()


def test_a_deadline_that_the_queue_cannot_meet_is_refused_at_once(toys: Path, grpc_server: str, gate: Gate) -> None:
    with local_service(toys, grpc_server) as service, ThreadPoolExecutor(8) as pool:
        model = service.server.registry.get("double")
        model.batcher._scheduler._engines[0].seconds_per_row = 10.0  # test_scheduler tests the estimate itself
        gate.hold()
        running = pool.submit(service.stub.ModelInfer, infer_request("double", x=X))
        gate.wait_for(1)
        error = refusal(service, infer_request("double", x=X), timeout=15)
        gate.open()
        assert error.code is grpc.StatusCode.DEADLINE_EXCEEDED
        assert re.search("cannot be met: 1 rows are ahead, about (19|20)... ms", error.text)
        assert model.statistics.codes["DEADLINE_EXCEEDED"] == 1
        running.result()
        assert gate.sizes == [1], "the refused request reached the engine"


def test_a_request_that_expires_in_the_queue_never_reaches_the_engine(toys: Path, grpc_server: str, gate: Gate) -> None:
    with local_service(toys, grpc_server) as service, ThreadPoolExecutor(8) as pool:
        model = service.server.registry.get("double")
        gate.hold()
        running = pool.submit(service.stub.ModelInfer, infer_request("double", x=X))
        gate.wait_for(1)
        error = refusal(service, infer_request("double", x=X), timeout=0.2)
        wait_until(lambda: model.statistics.codes["DEADLINE_EXCEEDED"] == 1, "the expiry is counted")
        gate.open()
        running.result()
        assert error.code is grpc.StatusCode.DEADLINE_EXCEEDED
        assert gate.sizes == [1]


def test_a_cancelled_request_never_reaches_the_engine_and_the_others_are_answered(
    toys: Path, grpc_server: str, gate: Gate
) -> None:
    with local_service(toys, grpc_server) as service, ThreadPoolExecutor(8) as pool:
        model = service.server.registry.get("double")
        gate.hold()
        running = pool.submit(service.stub.ModelInfer, infer_request("double", x=X))
        gate.wait_for(1)
        futures = [service.stub.ModelInfer.future(infer_request("double", x=X + index)) for index in range(3)]
        wait_until(lambda: model.batcher.queued_rows == 3, "three requests are queued")
        futures[1].cancel()
        wait_until(lambda: model.statistics.codes["CANCELLED"] == 1, "the cancellation is counted")
        gate.open()
        running.result()
        for index in (0, 2):
            np.testing.assert_array_equal(outputs_of(futures[index].result())["y"], 2 * (X + index))
        assert gate.sizes == [1, 2]


def test_only_the_request_that_the_engine_cannot_compute_fails(toys: Path, grpc_server: str, gate: Gate) -> None:
    with local_service(toys, grpc_server) as service, ThreadPoolExecutor(8) as pool:
        model = service.server.registry.get("lookup")

        def look_up(index: int) -> pb.ModelInferRequest:
            return infer_request("lookup", index=np.array([[index]]))

        gate.hold()
        running = pool.submit(service.stub.ModelInfer, look_up(0))
        gate.wait_for(1)
        calls = [pool.submit(service.stub.ModelInfer, look_up(index)) for index in (1, 2, 99, 4)]
        wait_until(lambda: model.batcher.queued_rows == 4, "four requests are queued")
        gate.open()
        running.result()
        values = [outputs_of(calls[index].result())["value"].item() for index in (0, 1, 3)]
        assert values == [10.0, 20.0, 40.0]
        error = Refusal(calls[2].exception())
        assert error.code is grpc.StatusCode.INTERNAL
        fixed_text = r"the request could not be computed; the server's log has the cause under error id [0-9a-f]{12}"
        assert re.fullmatch(fixed_text, error.text), "the engine's own text leaked"


def test_a_draining_server_refuses_new_requests_and_answers_pending_ones(
    toys: Path, grpc_server: str, gate: Gate
) -> None:
    service = LocalService(toys, grpc_server).ready()
    with ThreadPoolExecutor(8) as pool:
        gate.hold()
        running = pool.submit(service.stub.ModelInfer, infer_request("double", x=X))
        gate.wait_for(1)
        waiting = pool.submit(service.stub.ModelInfer, infer_request("double", x=X + 1))
        model = service.server.registry.get("double")
        wait_until(lambda: model.batcher.queued_rows == 1, "one request is queued")
        finish = service.begin_shut_down()
        wait_until(lambda: not service.server.lifecycle.accepts_calls, "the server drains")
        error = refusal(service, infer_request("double", x=X))
        gate.open()
        np.testing.assert_array_equal(outputs_of(running.result())["y"], 2 * X)
        np.testing.assert_array_equal(outputs_of(waiting.result())["y"], 2 * (X + 1))
        finish()
    assert error.code is grpc.StatusCode.UNAVAILABLE
    assert "draining" in error.text
    assert error.retry_seconds() > 0


def test_a_refused_version_is_unavailable_with_the_reason(toys: Path, grpc_server: str) -> None:
    (toys / "double" / "1" / "model.onnx").write_bytes(b"not ONNX")
    with local_service(toys, grpc_server) as service:
        error = refusal(service, infer_request("double", x=X))
        assert error.code is grpc.StatusCode.UNAVAILABLE
        assert "model.onnx cannot be opened" in error.text
        service.stub.ModelInfer(infer_request("lookup", index=np.array([[3]])))


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("SystemSharedMemoryStatus", "send tensors in raw_input_contents"),
        ("SystemSharedMemoryRegister", "send tensors in raw_input_contents"),
        ("SystemSharedMemoryUnregister", "send tensors in raw_input_contents"),
        ("CudaSharedMemoryStatus", "send tensors in raw_input_contents"),
        ("CudaSharedMemoryRegister", "send tensors in raw_input_contents"),
        ("CudaSharedMemoryUnregister", "send tensors in raw_input_contents"),
        ("TraceSetting", "ModelStatistics and /metrics"),
        ("RepositoryModelLoad", "RepositoryModelLoad is turned off; start the service with --enable-model-control"),
        ("RepositoryModelUnload", "RepositoryModelUnload is turned off; start the service with --enable-model-control"),
    ],
)
def test_an_unsupported_or_disabled_method_is_unimplemented_and_says_what_to_do(
    service: LocalService, method: str, message: str
) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        getattr(service.stub, method)(getattr(pb, f"{method}Request")())
    error = Refusal(caught.value)
    assert error.code is grpc.StatusCode.UNIMPLEMENTED
    assert message in error.text


def test_calls_that_reach_no_model_are_counted_without_a_model_name(service: LocalService) -> None:
    refusal(service, infer_request("absent", x=X))
    assert service.server.handler.unrouted_statistics.codes == {"NOT_FOUND": 1}


def test_concurrent_valid_and_invalid_requests_each_get_their_own_answer(service: LocalService) -> None:
    failures: list[str] = []

    def work(seed: int) -> None:
        random = np.random.default_rng(seed)
        for _ in range(30):
            rows = int(random.integers(0, 11))
            x = random.random((rows, 4), np.float32)
            try:
                answer = outputs_of(service.stub.ModelInfer(infer_request("double", x=x)))["y"]
                if not np.array_equal(answer, 2 * x):
                    failures.append(f"{rows} rows: wrong answer")
            except grpc.RpcError as error:
                valid = 1 <= rows <= 8
                if valid and error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
                    failures.append(f"{rows} rows: {error.code()}")

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def with_parameter(name: str, value: int, **inputs: Any) -> pb.ModelInferRequest:
    request = infer_request("double", **inputs)
    request.parameters[name].int64_param = value
    return request


def test_a_requests_timeout_is_reported_while_the_engine_is_still_busy(
    toys: Path, grpc_server: str, gate: Gate
) -> None:
    with local_service(toys, grpc_server) as service:
        gate.hold()
        running = service.stub.ModelInfer.future(infer_request("double", x=X))
        gate.wait_for(1)
        error = refusal(service, with_parameter("timeout", 50_000, x=X), timeout=20.0)
        assert error.code is grpc.StatusCode.DEADLINE_EXCEEDED
        assert re.search(r"the deadline passed after (5|6|7|8|9)\d ms in the queue", error.text), error.text
        gate.open()
        running.result(30)
        assert sum(gate.sizes) == 1, "the expired request reached the engine"


def test_requests_leave_the_queue_by_priority(tmp_path: Path, grpc_server: str, gate: Gate) -> None:
    levels = "dynamic_batching { priority_levels: 2 default_priority_level: 2 }"
    add_version(tmp_path, "double", doubling_model(), config=f"max_batch_size: 1 {levels}")
    with local_service(tmp_path, grpc_server) as service:
        batcher = service.server.registry.get("double").batcher
        gate.hold()
        order: list[str] = []
        calls: list[grpc.Future[pb.ModelInferResponse]] = []

        def answered(name: str, _: object) -> None:
            order.append(name)

        for name, priority in [("running", 0), ("low", 2), ("default", 0), ("high", 1)]:
            call = service.stub.ModelInfer.future(with_parameter("priority", priority, x=X))
            call.add_done_callback(functools.partial(answered, name))
            calls.append(call)
            wait_until(lambda: batcher.pending_rows == len(calls), "the request is queued")
        for turn in range(1, 5):
            gate.let_through()
            wait_until(functools.partial(lambda turn: len(order) >= turn, turn), "the next request is answered")
        assert order == ["running", "high", "low", "default"]
        error = refusal(service, with_parameter("priority", 3, x=X))
        assert error.code is grpc.StatusCode.INVALID_ARGUMENT and error.fields() == ["parameters.priority"]
