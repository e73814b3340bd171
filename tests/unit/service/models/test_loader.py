"""Loading versions without a manifest: what is accepted, and a message for each refusal that says what to change."""

import re
import shutil
from pathlib import Path

import pytest
from onnx import TensorProto

from service.core.batch_sizes import batch_sizes
from service.core.load_errors import DeviceUnavailable, LoadError
from service.models.loader import load
from service.models.repository.scan import scan
from service.runtime.devices import choose_devices
from service.runtime.session import Engine
from tests.support.loading import CPU, load_only, refusal
from tests.support.models import add_version, adding_model, doubling_model, identity_model, lookup_model


def test_only_positive_numbers_without_leading_zeros_are_versions(tmp_path: Path) -> None:
    for name in ("1", "10", "2", "0", "03", "-1", ".4.tmp", "v5", "6 ", "٣"):
        (tmp_path / "m" / name).mkdir(parents=True)
    (tmp_path / ".hidden" / "1").mkdir(parents=True)
    (tmp_path / "file").write_text("")
    (folder,) = scan(tmp_path).models
    assert list(folder.versions) == [10, 2, 1]


def test_a_model_without_manifest_is_unverified_and_its_configuration_is_derived(tmp_path: Path) -> None:
    add_version(tmp_path, "double", doubling_model())
    model = load_only(tmp_path)
    assert not model.verified
    config = model.spec.config
    assert (config.name, config.platform, config.max_batch_size) == ("double", "onnxruntime_onnx", 4)
    assert config.HasField("dynamic_batching")
    assert [(tensor.name, list(tensor.dims)) for tensor in config.input] == [("x", [4])]


def test_a_graph_without_a_free_first_axis_does_not_batch(tmp_path: Path) -> None:
    add_version(tmp_path, "fixed", identity_model(TensorProto.FLOAT, [2, 3]))
    spec = load_only(tmp_path).spec
    assert spec.max_batch_size == 0 and spec.inputs[0].shape == (2, 3)


def test_inputs_and_outputs_keep_the_order_of_the_graph(tmp_path: Path) -> None:
    add_version(tmp_path, "adding", adding_model())
    spec = load_only(tmp_path).spec
    assert [tensor.name for tensor in (*spec.inputs, *spec.outputs)] == ["a", "b", "sum", "difference"]


X = 'max_batch_size: 8 input [ { name: "x" data_type: TYPE_FP32 dims: [ 4 ] } ]'
Y = 'output [ { name: "y" data_type: TYPE_FP32 dims: [ 4 ] } ]'


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (X.replace('"x"', '"q"') + Y, "differ in input 'q': config.pbtxt has ['q'], the graph has ['x']"),
        (f"{X.replace('FP32', 'INT8')} {Y}", "input 'x': config.pbtxt says TYPE_INT8, the graph has TYPE_FP32"),
        (f"{X.replace('[ 4 ]', '[ 5 ]')} {Y}", "input 'x': config.pbtxt says dims [5], the graph has [4]"),
        (f"{X.replace('[ 4 ]', '[ 8, 4 ]')} {Y}", "says dims [8, 4], the graph has [4]"),
        (f"{X} {Y.replace('4', '3')}", "output 'y': config.pbtxt says dims [3], the graph has [4]"),
        ('platform: "tensorflow_savedmodel"', "supports platform 'onnxruntime_onnx', not 'tensorflow_savedmodel'"),
        ("max_batch_size: -1", "max_batch_size is -1"),
        ("max_batch_size: 2147483647", "max_batch_size is 2147483647, expected 0 to 65536"),
        ("sequence_batching { }", "does not support sequence_batching; remove it"),
        ("model_transaction_policy { decoupled: true }", "does not support model_transaction_policy.decoupled"),
        ("nonsense: 1", "cannot be read"),
    ],
)
def test_a_configuration_that_contradicts_the_graph_is_refused_and_the_message_names_both(
    tmp_path: Path, config: str, message: str
) -> None:
    add_version(tmp_path, "double", doubling_model(), config=config)
    assert message in refusal(tmp_path)


def test_batching_a_graph_without_a_free_first_axis_is_refused(tmp_path: Path) -> None:
    add_version(tmp_path, "fixed", identity_model(TensorProto.FLOAT, [2, 3]), config="max_batch_size: 8")
    assert "the first axis of 'x' is not free: its shape is [2, 3]" in refusal(tmp_path)


def test_a_configuration_may_fix_a_free_axis_of_the_graph(tmp_path: Path) -> None:
    config = f"{X} {Y}"
    add_version(tmp_path, "free", identity_model(TensorProto.FLOAT, ["N", "M"]), config=config)
    assert load_only(tmp_path).spec.inputs[0].shape == (4,)


def test_an_unsupported_element_type_is_refused_by_name(tmp_path: Path) -> None:
    add_version(tmp_path, "eighth", identity_model(TensorProto.FLOAT8E4M3FN, ["N", 1]))
    assert "has type tensor(float8e4m3fn); supported types: " in refusal(tmp_path)


@pytest.mark.parametrize("shape", [["N", 2**40], [2**20, 2**20]])
def test_a_graph_whose_rows_do_not_fit_into_memory_is_refused_by_name(tmp_path: Path, shape: list[int | str]) -> None:
    add_version(tmp_path, "huge", identity_model(TensorProto.FLOAT, shape))
    assert re.match(r"a batch of \d rows does not fit into memory: Unable to allocate", refusal(tmp_path))


def test_a_model_without_golden_answers_is_warmed_up_with_zeros(tmp_path: Path) -> None:
    add_version(tmp_path, "lookup", lookup_model())
    assert load_only(tmp_path).spec.max_batch_size == 4


def test_batch_sizes_are_powers_of_two_and_the_limit() -> None:
    assert batch_sizes(1) == [1]
    assert batch_sizes(8) == [1, 2, 4, 8]
    assert batch_sizes(48) == [1, 2, 4, 8, 16, 32, 48]


def test_a_missing_cuda_device_is_refused_and_not_replaced_by_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.runtime.cuda.device_count", lambda: 0)
    assert choose_devices("auto") == choose_devices("cpu") == ["cpu"]
    with pytest.raises(DeviceUnavailable, match="--device cuda"):
        choose_devices("cuda")


def test_auto_takes_every_cuda_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.runtime.cuda.device_count", lambda: 2)
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CUDAExecutionProvider"])
    assert choose_devices("auto") == choose_devices("cuda:0,cuda:1") == ["cuda:0", "cuda:1"]
    assert choose_devices("cuda") == ["cuda:0"]
    with pytest.raises(DeviceUnavailable, match="cuda:2 not found, the driver shows 2"):
        choose_devices("cuda:1,cuda:2")


def test_a_session_that_fell_back_to_the_cpu_is_refused() -> None:
    if "CUDAExecutionProvider" in __import__("onnxruntime").get_available_providers() and choose_devices("auto") != [
        "cpu"
    ]:
        pytest.skip("this machine has a CUDA device")
    with pytest.raises(Exception, match=r"cuda:0 was requested|CUDA"):
        Engine(doubling_model(), device="cuda:0", intra_op_threads=1)


def test_a_version_that_is_deleted_before_it_is_read_is_refused(tmp_path: Path) -> None:
    add_version(tmp_path, "double", doubling_model())
    (folder,) = scan(tmp_path).models
    shutil.rmtree(tmp_path / "double" / "1")
    with pytest.raises(LoadError, match="cannot be read"):
        load(folder, 1, CPU)
