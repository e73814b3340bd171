"""Graphs of others in a running server: rows that depend on each other, reshapes, weights, warnings."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from service.pb import inference_pb2 as pb
from tests.support.graphs import centred_model, constant, graph, weighted_model
from tests.support.local_service import LocalService, local_service
from tests.support.models import BATCHING_CONFIG, add_version, copy_repository, doubling_model, identity_model
from tests.support.requests import infer_request, outputs_of


def answer(service: LocalService, model: str, x: NDArray[np.float32]) -> NDArray[np.float32]:
    response = service.stub.ModelInfer(infer_request(model, x=x), timeout=60)
    values: NDArray[np.float32] = outputs_of(response)["y"]
    return values


@pytest.mark.parametrize("config", [None, "max_batch_size: 8 dynamic_batching { }"], ids=["derived", "configured"])
def test_requests_at_once_get_what_each_gives_alone(tmp_path: Path, grpc_server: str, config: str | None) -> None:
    """The first axis of the graph is time. 200 requests of one and of several rows, 16 at a time."""
    add_version(tmp_path, "frames", centred_model(), config=config)
    generator = np.random.default_rng(0)
    requests = [generator.standard_normal((1 + index % 4, 3), np.float32) for index in range(200)]
    with local_service(tmp_path, grpc_server) as service, ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda x: answer(service, "frames", x), requests))
    for x, y in zip(requests, answers, strict=True):
        np.testing.assert_allclose(y, x - x.mean(0), atol=1e-5)


def test_a_derived_model_that_is_not_batched_takes_any_number_of_rows(tmp_path: Path, grpc_server: str) -> None:
    add_version(tmp_path, "frames", centred_model())
    x = np.arange(300, dtype=np.float32).reshape(100, 3)
    with local_service(tmp_path, grpc_server) as service:
        np.testing.assert_allclose(answer(service, "frames", x), x - x.mean(0), atol=1e-4)
        config = service.stub.ModelConfig(pb.ModelConfigRequest(name="frames")).config
    assert config.max_batch_size == 0 and not config.HasField("dynamic_batching")


def test_the_index_and_the_log_name_what_an_operator_does_not_get(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    add_version(tmp_path, "frames", centred_model())
    add_version(tmp_path, "cached", doubling_model(), config=f"{BATCHING_CONFIG} response_cache {{ enable: true }}")
    add_version(tmp_path, "plain", doubling_model())
    with local_service(tmp_path, "aio") as service:
        index = service.stub.RepositoryIndex(pb.RepositoryIndexRequest()).models
    reasons = {model.name: model.reason for model in index}
    assert {model.state for model in index} == {"READY"}
    assert reasons["plain"] == ""
    assert reasons["cached"] == "config.pbtxt sets response_cache, which this service ignores"
    assert reasons["frames"].startswith("not batched, every request runs alone: output 'y' of a row differs")
    logged = capsys.readouterr()
    assert (logged.out + logged.err).count("model warning") == 2


def test_callers_send_and_get_the_dims_and_the_graph_gets_its_own_shape(tmp_path: Path, grpc_server: str) -> None:
    """As in Triton's first example, and batched with a free axis: each with another shape in the graph."""
    first = (
        'max_batch_size: 0 input { name: "x" data_type: TYPE_FP32 dims: [ 3, 2 ] reshape { shape: [ 1, 3, 2 ] } } '
        'output { name: "y" data_type: TYPE_FP32 dims: [ 3, 2, 1 ] reshape { shape: [ 1, 3, 2 ] } }'
    )
    free = (
        "max_batch_size: 8 dynamic_batching { } "
        'input { name: "x" data_type: TYPE_FP32 dims: [ -1, 2, 2 ] reshape { shape: [ -1, 4 ] } } '
        'output { name: "y" data_type: TYPE_FP32 dims: [ 1, -1, 4 ] reshape { shape: [ -1, 4 ] } }'
    )
    add_version(tmp_path, "first", identity_model(TensorProto.FLOAT, [1, 3, 2]), config=first)
    add_version(tmp_path, "free", identity_model(TensorProto.FLOAT, ["N", "M", 4]), config=free)
    with local_service(tmp_path, grpc_server) as service:
        x = np.arange(6, dtype=np.float32).reshape(3, 2)
        np.testing.assert_array_equal(answer(service, "first", x), x.reshape(3, 2, 1))
        for rows, length in ((1, 5), (3, 2)):
            sent = np.arange(rows * length * 4, dtype=np.float32).reshape(rows, length, 2, 2)
            np.testing.assert_array_equal(answer(service, "free", sent), sent.reshape(rows, 1, length, 4))
        metadata = service.stub.ModelMetadata(pb.ModelMetadataRequest(name="free"))
        assert [list(tensor.shape) for tensor in (*metadata.inputs, *metadata.outputs)] == [
            [-1, -1, 2, 2],
            [-1, 1, -1, 4],
        ]
        config = service.stub.ModelConfig(pb.ModelConfigRequest(name="first")).config
        assert list(config.input[0].reshape.shape) == [1, 3, 2] and list(config.input[0].dims) == [3, 2]


def test_a_scalar_in_the_graph_is_a_vector_of_one_for_callers(tmp_path: Path) -> None:
    """Triton's documentation of `reshape`: dims [1] and an empty shape."""
    tensor = "data_type: TYPE_FP32 dims: [ 1 ] reshape { shape: [ ] }"
    config = f'max_batch_size: 8 dynamic_batching {{ }} input {{ name: "x" {tensor} }} output {{ name: "y" {tensor} }}'
    nodes = [helper.make_node("Add", ["x", "one"], ["y"])]
    model = graph(nodes, shape=("N",), constants=[constant("one", np.ones((), np.float32))]).SerializeToString()
    add_version(tmp_path, "m", model, config=config)
    with local_service(tmp_path, "native") as service:
        assert answer(service, "m", np.zeros((3, 1), np.float32)).tolist() == [[1], [1], [1]]


def test_weights_behind_links_answer(tmp_path: Path, grpc_server: str) -> None:
    blobs = tmp_path / ".blobs"
    blobs.mkdir()
    folder = tmp_path / "hub" / "1"
    folder.mkdir(parents=True)
    for name, content in zip(("model.onnx", "model.onnx_data"), weighted_model(), strict=True):
        (blobs / f"sha-{name}").write_bytes(content)
        (folder / name).symlink_to(Path("../../.blobs") / f"sha-{name}")
    with local_service(tmp_path, grpc_server) as service:
        assert answer(service, "hub", np.ones((1, 3), np.float32)).tolist() == [[5, 5, 5]]


def test_a_service_that_requires_manifests_refuses_versions_without_one(published: Path, tmp_path: Path) -> None:
    repository = copy_repository(published, tmp_path / "models")
    add_version(repository, "double", doubling_model())
    with local_service(repository, "aio", require_manifest=True) as service:
        assert service.server.registry.snapshot.serving_models() == {"mnist-simplecnn"}
        (refused,) = [status for status in service.server.registry.index() if status.name == "double"]
    assert refused.code == "files"
    assert "double/1 has no manifest.json, which --require-manifest asks for; publish the version" in refused.reason
