"""Models from elsewhere: the ONNX files that ship with the onnx package, and a Triton repository.

https://github.com/onnx/onnx/tree/main/onnx/backend/test/data has the models with their inputs and outputs.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx.backend.test
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from service.models.registry import State
from service.pb import inference_pb2 as pb
from tests.support.local_service import LocalService, local_service
from tests.support.models import add_version
from tests.support.requests import infer_request, outputs_of

DATA = Path(onnx.backend.test.__file__).parent / "data"
FOLDERS = {path.parent.name: path.parent for path in sorted(DATA.glob("*/*/model.onnx"))}
# Networks of known architectures with placeholder weights, and their input shape. The expected output is for all ones.
NETWORKS = {"light_squeezenet": (3, 224, 224), "light_shufflenet": (3, 224, 224)}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalService]:
    repository = tmp_path_factory.mktemp("foreign")
    for name, folder in FOLDERS.items():
        add_version(repository, name, (folder / "model.onnx").read_bytes())
    for name in NETWORKS:
        add_version(repository, name, (DATA / "light" / f"{name}.onnx").read_bytes())
    with local_service(repository, "native") as service:
        yield service


def tensors(folder: Path, kind: str) -> list[NDArray[Any]]:
    count = len(list(folder.glob(f"test_data_set_0/{kind}_*.pb")))
    return [read(folder / f"test_data_set_0/{kind}_{index}.pb") for index in range(count)]


def read(path: Path) -> NDArray[Any]:
    return numpy_helper.to_array(TensorProto.FromString(path.read_bytes()))


def test_every_model_that_onnx_runtime_opens_is_served_and_the_others_report_why(service: LocalService) -> None:
    assert len(FOLDERS) > 100
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    for status in service.server.registry.index():
        if status.state is State.READY:
            continue
        assert status.reason.startswith("model.onnx cannot be opened: "), status
        with pytest.raises(Exception, match="ONNXRuntimeError"):
            onnxruntime.InferenceSession(FOLDERS[status.name] / "model.onnx", options)
    assert len(service.server.registry.models()) >= 100


@pytest.mark.parametrize("name", FOLDERS)
def test_each_model_gives_the_answers_that_ship_with_it(service: LocalService, name: str) -> None:
    if name not in service.server.registry.snapshot.serving_models():
        pytest.skip("ONNX Runtime itself cannot open it")
    spec = service.server.registry.get(name).spec
    inputs = dict(zip([tensor.name for tensor in spec.inputs], tensors(FOLDERS[name], "input"), strict=False))
    answer = outputs_of(service.stub.ModelInfer(infer_request(name, "", **inputs)))
    for tensor, expected in zip(spec.outputs, tensors(FOLDERS[name], "output"), strict=True):
        got = answer[tensor.name]
        if expected.dtype == np.object_:
            assert got.tolist() == expected.tolist()
        else:
            np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_give_the_answers_that_ship_with_them(service: LocalService, name: str) -> None:
    spec = service.server.registry.get(name).spec
    (tensor,) = spec.inputs
    ones = np.ones((1, *NETWORKS[name]), np.float32)
    (got,) = outputs_of(service.stub.ModelInfer(infer_request(name, "", **{tensor.name: ones}))).values()
    np.testing.assert_allclose(got, read(DATA / "light" / f"{name}_output_0.pb"), rtol=1e-3, atol=1e-5)


def test_a_triton_repository_is_served_by_its_configuration(tmp_path: Path, grpc_server: str) -> None:
    """In the style of Triton's examples, with instance groups, warm-up and fields that change no answer."""
    network = (DATA / "light" / "light_squeezenet.onnx").read_bytes()
    config = """
      name: "squeezenet"
      platform: "onnxruntime_onnx"
      max_batch_size: 0
      input [ { name: "data_0" data_type: TYPE_FP32 format: FORMAT_NCHW dims: [ 1, 3, 224, 224 ] } ]
      output [ { name: "softmaxout_1" data_type: TYPE_FP32 dims: [ 1, 1000, 1, 1 ] label_filename: "labels.txt" } ]
      instance_group [ { count: 2 kind: KIND_CPU } ]
      optimization { graph { level: 1 } }
      parameters { key: "intra_op_thread_count" value: { string_value: "1" } }
      model_warmup [ { name: "zeros" batch_size: 1 inputs { key: "data_0" value: {
        data_type: TYPE_FP32 dims: [ 1, 3, 224, 224 ] zero_data: true } } } ]
    """
    add_version(tmp_path, "squeezenet", network, config=config)
    (tmp_path / "squeezenet" / "labels.txt").write_text("\n".join(f"label {index}" for index in range(1000)))
    with local_service(tmp_path, grpc_server) as service:
        assert not service.server.registry.models()[0].verified
        request = infer_request("squeezenet", data_0=np.ones((1, 3, 224, 224), np.float32))
        request.outputs.add(name="softmaxout_1").parameters["classification"].int64_param = 3
        (classes,) = outputs_of(service.stub.ModelInfer(request)).values()
        assert len(classes) == 3 and all(text.split(":")[2] == f"label {text.split(':')[1]}" for text in classes)
        config_now = service.stub.ModelConfig(pb.ModelConfigRequest(name="squeezenet")).config
        assert config_now.instance_group[0].count == 2
