"""What is on disk, and which of it may take traffic: every refusal has a message that says what to mend."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto

from service.core.batch_sizes import batch_sizes
from service.core.errors import DeviceUnavailable, LoadError
from service.models.loader import EngineOptions, LoadedModel, load
from service.models.repository import scan
from service.runtime.devices import choose_devices
from service.runtime.session import Engine
from tests.support import add_version, adding_model, copy_repository, doubling_model, identity_model, lookup_model

CPU = EngineOptions(["cpu"], 1)


def load_only(repository: Path, version: int = 1) -> LoadedModel:
    """Load the only model of a repository."""
    (folder,) = scan(repository)
    model = load(folder, version, CPU)
    model.batcher.close()
    return model


def refusal(repository: Path) -> str:
    """Why the only model of a repository is refused."""
    with pytest.raises(LoadError) as caught:
        load_only(repository)
    return str(caught.value)


@pytest.fixture
def ours(published: Path, tmp_path: Path) -> Path:
    """A copy of what our job published, to be spoilt."""
    return copy_repository(published, tmp_path / "models")


def test_only_positive_numbers_without_zeros_in_front_are_versions(tmp_path: Path) -> None:
    for name in ("1", "10", "2", "0", "03", "-1", ".4.tmp", "v5", "6 ", "٣"):
        (tmp_path / "m" / name).mkdir(parents=True)
    (tmp_path / ".hidden" / "1").mkdir(parents=True)
    (tmp_path / "file").write_text("")
    (folder,) = scan(tmp_path)
    assert list(folder.versions) == [10, 2, 1]


def test_what_our_job_publishes_is_loaded_verified(ours: Path) -> None:
    model = load_only(ours)
    assert model.verified
    assert model.provider == "CPUExecutionProvider"
    assert model.spec.outputs[0].labels == tuple("0123456789")
    assert model.spec.max_batch_size == 64
    assert model.batcher.policy.levels[0].max_rows == 1024
    assert [tensor.shape for tensor in (*model.spec.inputs, *model.spec.outputs)] == [(28, 28, 1), (10,)]


def edit_manifest(repository: Path, **changes: object) -> None:
    path = repository / "mnist-simplecnn" / "1" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_golden(repository: Path, change: Callable[[dict[str, np.ndarray]], object]) -> None:
    path = repository / "mnist-simplecnn" / "1" / "golden.npz"
    with np.load(path) as golden:
        arrays = dict(golden)
    change(arrays)
    np.savez(path, allow_pickle=False, **arrays)


def test_a_graph_that_is_not_the_manifests_is_refused(ours: Path) -> None:
    path = ours / "mnist-simplecnn" / "1" / "model.onnx"
    content = bytearray(path.read_bytes())
    content[-1000] ^= 1
    path.write_bytes(content)
    assert "expected SHA-256" in refusal(ours)


def test_golden_answers_that_do_not_hold_are_refused(ours: Path) -> None:
    edit_golden(ours, lambda arrays: arrays["probabilities"].__iadd__(0.001))
    assert "the golden answers do not hold at batch size 1: 'probabilities' differs by 1.00e-03" in refusal(ours)


def test_golden_labels_that_do_not_hold_are_refused_whatever_the_tolerance(ours: Path) -> None:
    edit_manifest(ours, golden={"tolerance": 10.0})
    edit_golden(ours, lambda arrays: arrays.update(probabilities=np.roll(arrays["probabilities"], 1, axis=1)))
    assert "1 of 1 labels differ, first at sample 0" in refusal(ours)


def test_golden_answers_are_compared_in_every_batch_size(ours: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Engine.run
    sizes: set[int] = set()

    def wrong_in_company(engine: Engine, inputs: Any) -> list[Any]:
        sizes.add(len(inputs[0]))
        answer: Any = run(engine, inputs)[0]
        return [answer + np.float32(0.01) if len(answer) == 32 else answer]

    monkeypatch.setattr(Engine, "run", wrong_in_company)
    assert "at batch size 32" in refusal(ours)
    assert sizes == {1, 2, 4, 8, 16, 32}


def test_nan_is_no_golden_answer(ours: Path) -> None:
    edit_golden(ours, lambda arrays: arrays["probabilities"].fill(np.nan))
    assert "golden answers do not hold" in refusal(ours)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda folder: (folder / "golden.npz").unlink(), "golden.npz cannot be read"),
        (lambda folder: (folder / "golden.npz").write_bytes(b"PK half a file"), "golden.npz cannot be read"),
        (lambda folder: (folder / "manifest.json").write_text("{"), "manifest.json cannot be read"),
        (lambda folder: (folder / "manifest.json").write_text("[]"), "manifest.json cannot be read"),
        (lambda folder: (folder / "model.onnx").unlink(), "model.onnx cannot be read: No such file"),
        (lambda folder: (folder.parent / "labels.txt").unlink(), "labels.txt cannot be read"),
        (lambda folder: (folder.parent / "config.pbtxt").write_text("max_batch_size: many"), "cannot be read: 1:17"),
        (lambda folder: (folder.parent / "config.pbtxt").write_text('name: "other"'), "names the model 'other'"),
    ],
)
def test_a_spoilt_file_is_refused_by_name(ours: Path, spoil: Callable[[Path], object], says: str) -> None:
    spoil(ours / "mnist-simplecnn" / "1")
    assert says in refusal(ours)


def test_a_manifest_of_another_model_is_refused(ours: Path) -> None:
    edit_manifest(ours, model="cifar10-cnn")
    assert "describes 'cifar10-cnn', not 'mnist-simplecnn'" in refusal(ours)


def test_a_label_file_outside_the_model_is_refused(ours: Path) -> None:
    path = ours / "mnist-simplecnn" / "config.pbtxt"
    path.write_text(path.read_text().replace("labels.txt", "../../../etc/passwd"))
    assert "leads out of" in refusal(ours)


def test_a_model_without_manifest_or_configuration_is_served_unverified_and_derived(tmp_path: Path) -> None:
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


def test_several_inputs_and_outputs_keep_the_graphs_order(tmp_path: Path) -> None:
    add_version(tmp_path, "adding", adding_model())
    spec = load_only(tmp_path).spec
    assert [tensor.name for tensor in (*spec.inputs, *spec.outputs)] == ["a", "b", "sum", "difference"]


X = 'max_batch_size: 8 input [ { name: "x" data_type: TYPE_FP32 dims: [ 4 ] } ]'
Y = 'output [ { name: "y" data_type: TYPE_FP32 dims: [ 4 ] } ]'


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (X.replace('"x"', '"q"') + Y, "differ in input 'q': ['q'] against ['x']"),
        (f"{X.replace('FP32', 'INT8')} {Y}", "input 'x': config.pbtxt says TYPE_INT8, the graph has TYPE_FP32"),
        (f"{X.replace('[ 4 ]', '[ 5 ]')} {Y}", "input 'x': config.pbtxt says dims [5], the graph has [4]"),
        (f"{X.replace('[ 4 ]', '[ 8, 4 ]')} {Y}", "says dims [8, 4], the graph has [4]"),
        (f"{X} {Y.replace('4', '3')}", "output 'y': config.pbtxt says dims [3], the graph has [4]"),
        ('platform: "tensorflow_savedmodel"', "only platform 'onnxruntime_onnx' is served"),
        ("max_batch_size: -1", "max_batch_size is -1"),
        ("sequence_batching { }", "sequence_batching cannot be honoured"),
        ("model_transaction_policy { decoupled: true }", "decoupled cannot be honoured"),
        ("nonsense: 1", "cannot be read"),
    ],
)
def test_a_configuration_that_contradicts_its_graph_is_refused_with_both_sides(
    tmp_path: Path, config: str, says: str
) -> None:
    add_version(tmp_path, "double", doubling_model(), config=config)
    assert says in refusal(tmp_path)


def test_batching_a_graph_that_has_no_free_first_axis_is_refused(tmp_path: Path) -> None:
    add_version(tmp_path, "fixed", identity_model(TensorProto.FLOAT, [2, 3]), config="max_batch_size: 8")
    assert "the first axis of 'x' is not free: its shape is [2, 3]" in refusal(tmp_path)


def test_a_configuration_may_be_stricter_than_the_graph(tmp_path: Path) -> None:
    config = f"{X} {Y}"
    add_version(tmp_path, "free", identity_model(TensorProto.FLOAT, ["N", "M"]), config=config)
    assert load_only(tmp_path).spec.inputs[0].shape == (4,)


def test_a_type_that_is_not_served_is_refused_by_name(tmp_path: Path) -> None:
    add_version(tmp_path, "eighth", identity_model(TensorProto.FLOAT8E4M3FN, ["N", 1]))
    assert "has type tensor(float8e4m3fn); served are" in refusal(tmp_path)


def test_a_model_that_needs_certain_inputs_is_warmed_up_where_zeros_will_do(tmp_path: Path) -> None:
    add_version(tmp_path, "lookup", lookup_model())
    assert load_only(tmp_path).spec.max_batch_size == 4


def test_every_size_is_a_power_of_two_or_the_limit() -> None:
    assert batch_sizes(1) == [1]
    assert batch_sizes(8) == [1, 2, 4, 8]
    assert batch_sizes(48) == [1, 2, 4, 8, 16, 32, 48]


def test_cuda_that_is_not_to_be_had_is_refused_not_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.runtime.cuda.device_count", lambda: 0)
    assert choose_devices("auto") == choose_devices("cpu") == ["cpu"]
    with pytest.raises(DeviceUnavailable, match="--device cuda"):
        choose_devices("cuda")


def test_each_cuda_device_is_taken_where_there_are_some(monkeypatch: pytest.MonkeyPatch) -> None:
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
    with pytest.raises(Exception, match=r"cuda:0 was asked for|CUDA"):
        Engine(doubling_model(), device="cuda:0", intra_op_threads=1)


def test_a_version_that_vanishes_while_it_is_read_is_refused(tmp_path: Path) -> None:
    add_version(tmp_path, "double", doubling_model())
    (folder,) = scan(tmp_path)
    shutil.rmtree(tmp_path / "double" / "1")
    with pytest.raises(LoadError, match="cannot be read"):
        load(folder, 1, CPU)
