"""config.pbtxt in a running server: outputs, file names, element types, and the parameter strict."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.support.local_service import Gate, local_service
from tests.support.models import add_version, adding_model, copy_repository, identity_model, size_dependent_model
from tests.support.requests import infer_request, outputs_of
from tests.support.waiting import WAIT, wait_until


def test_a_configuration_may_omit_outputs(tmp_path: Path, grpc_server: str) -> None:
    output = 'output [ { name: "difference" data_type: TYPE_INT32 dims: [ 2 ] } ]'
    add_version(tmp_path, "adding", adding_model(), config=f"max_batch_size: 8 {output}")
    with local_service(tmp_path, grpc_server) as service:
        a, b = np.array([[5, 7]], np.int32), np.array([[1, 2]], np.int32)
        answer = outputs_of(service.stub.ModelInfer(infer_request("adding", a=a, b=b)))
    assert {name: values.tolist() for name, values in answer.items()} == {"difference": [[4, 5]]}


def test_default_model_filename_may_name_a_folder_with_external_weights(tmp_path: Path) -> None:
    weights = numpy_helper.from_array(np.full((4,), 3, np.float32), "weights")
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "weights"], ["y"])],
        "outside",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4])],
        [weights],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    folder = tmp_path / "m" / "1" / "net.onnx"
    folder.mkdir(parents=True)
    onnx.save(model, folder / "net.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    (tmp_path / "m" / "config.pbtxt").write_text('max_batch_size: 8 default_model_filename: "net.onnx"')
    assert (folder / "weights.bin").stat().st_size
    with local_service(tmp_path, "aio") as service:
        answer = service.stub.ModelInfer(infer_request("m", x=np.ones((1, 4), np.float32)))
        assert outputs_of(answer)["y"].tolist() == [[3, 3, 3, 3]]


@pytest.mark.parametrize(
    ("element", "datatype"),
    [(getattr(TensorProto, onnx_name), datatype) for onnx_name, datatype in (
        ("BOOL", "BOOL"), ("UINT8", "UINT8"), ("UINT16", "UINT16"), ("UINT32", "UINT32"), ("UINT64", "UINT64"),
        ("INT8", "INT8"), ("INT16", "INT16"), ("INT32", "INT32"), ("INT64", "INT64"), ("FLOAT16", "FP16"),
        ("BFLOAT16", "BF16"), ("FLOAT", "FP32"), ("DOUBLE", "FP64"), ("STRING", "BYTES"),
    )],
)  # fmt: skip
def test_every_element_type_passes_through_a_model_unchanged(tmp_path: Path, element: int, datatype: str) -> None:
    """Three axes, of which the middle one is free, in requests of one and two rows."""
    add_version(tmp_path, "same", identity_model(element, ["N", "M", 2]))
    with local_service(tmp_path, "native") as service:
        assert service.stub.ModelInfer  # the model is loaded: it ran on zeros
        for rows, width in ((1, 3), (2, 1)):
            numbers = np.arange(rows * width * 2).reshape(rows, width, 2)
            if datatype == "BYTES":
                values = numbers.astype(str).astype(np.object_)
            else:
                values = numbers.astype({"BF16": "uint16", "BOOL": "bool"}.get(datatype) or _dtype(datatype))
            request = infer_request("same", x=values)
            request.inputs[0].datatype = datatype
            answer = service.stub.ModelInfer(request)
            assert answer.outputs[0].datatype == datatype
            np.testing.assert_array_equal(outputs_of(answer)["y"], values)


def _dtype(datatype: str) -> str:
    return datatype.lower().replace("fp", "float")


STRICT = ' parameters { key: "strict" value { string_value: "true" } }'


def test_strict_gives_the_same_bits_alone_and_in_a_batch(
    published: Path, tmp_path: Path, test_images: tuple[np.ndarray, np.ndarray]
) -> None:
    repository = copy_repository(published, tmp_path / "models")
    config = repository / "mnist-simplecnn" / "config.pbtxt"
    config.write_text(config.read_text() + STRICT)
    images = test_images[0][:64]
    with local_service(repository, "native") as service:

        def probabilities(rows: slice) -> np.ndarray:
            answer = service.stub.ModelInfer(infer_request("mnist-simplecnn", images=images[rows]))
            return outputs_of(answer)["probabilities"]

        batched = probabilities(slice(0, 64))
        for start, size in ((0, 1), (17, 1), (63, 1), (5, 2), (9, 33)):
            alone = probabilities(slice(start, start + size))
            assert alone.tobytes() == batched[start : start + size].tobytes()
        model = service.server.registry.get("mnist-simplecnn")
        assert model.batch_max_abs_diff == 0.0
        assert set(model.statistics.by_size) == {64, 1, 2, 33} and model.statistics.padding_rows == 63 * 3 + 62 + 31


@pytest.mark.parametrize("strict", [True, False])
def test_strict_pads_every_batch_to_one_size_so_that_bits_are_equal(
    tmp_path: Path, grpc_server: str, gate: Gate, strict: bool
) -> None:
    """The graph's answers depend on the batch size. Without strict, the control, they differ."""
    config = "max_batch_size: 8 dynamic_batching { }" + (STRICT if strict else "")
    add_version(tmp_path, "sized", size_dependent_model(), config=config)
    x = np.arange(4, dtype=np.float32).reshape(1, 4)
    with local_service(tmp_path, grpc_server) as service:
        batcher = service.server.registry.get("sized").batcher
        gate.hold()
        calls = [service.stub.ModelInfer.future(infer_request("sized", x=x))]
        gate.wait_for(1)
        calls += [service.stub.ModelInfer.future(infer_request("sized", x=x)) for _ in range(3)]
        wait_until(lambda: batcher.queued_rows == 3, "three requests are queued")
        gate.open()
        batched = {call.result(WAIT).raw_output_contents[0] for call in calls[1:]}
        assert gate.sizes == ([8, 8] if strict else [1, 3])
        alone = service.stub.ModelInfer(infer_request("sized", x=x)).raw_output_contents[0]
        assert (batched == {alone}) is strict


def test_the_largest_difference_that_batching_makes_is_measured_at_load(published: Path) -> None:
    with local_service(published, "native") as service:
        model = service.server.registry.get("mnist-simplecnn")
        assert model.batch_max_abs_diff is not None and model.batch_max_abs_diff <= 1e-5
