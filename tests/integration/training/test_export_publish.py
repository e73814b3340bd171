"""The exported graph agrees with PyTorch, and a version is published whole or not at all."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from google.protobuf import text_format
from onnx import TensorProto

from service.pb.model_config_pb2 import ModelConfig
from service.pictures.fit import DRAWING, Fit
from tests.support.paths import ROOT
from tests.support.training import NETWORK, artifact
from training.atomic_files import write_and_sync
from training.errors import ParityError
from training.networks.classifier import Classifier
from training.publishing import export, golden, publish


@pytest.fixture(scope="module")
def model() -> Classifier:
    torch.manual_seed(0)
    return NETWORK.classifier().eval()


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.randint(0, 256, (130, 28, 28, 1), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def graph(model: Classifier, images: torch.Tensor) -> bytes:
    return export.to_onnx(model, images[:2])


def test_the_graph_takes_raw_pixels_and_only_its_batch_axis_is_dynamic(graph: bytes) -> None:
    loaded = onnx.load_from_string(graph)
    onnx.checker.check_model(loaded, full_check=True)

    def shape(tensor: onnx.ValueInfoProto) -> list[Any]:
        return [axis.dim_value or axis.dim_param for axis in tensor.type.tensor_type.shape.dim]

    (pixels,), (output,) = loaded.graph.input, loaded.graph.output
    assert (pixels.name, pixels.type.tensor_type.elem_type) == ("images", TensorProto.UINT8)
    assert (output.name, output.type.tensor_type.elem_type) == ("probabilities", TensorProto.FLOAT)
    assert shape(pixels)[1:] == [28, 28, 1] and isinstance(shape(pixels)[0], str)
    assert shape(output)[1:] == [10] and shape(output)[0] == shape(pixels)[0]
    assert str(ROOT).encode() not in graph and b"site-packages" not in graph, "it contains paths of this machine"


def test_the_graph_records_the_fit_in_its_metadata(model: Classifier, images: torch.Tensor) -> None:
    graph = export.to_onnx(model, images[:2], Fit(DRAWING))
    metadata = {entry.key: entry.value for entry in onnx.load_from_string(graph).metadata_props}
    assert Fit.from_record(json.loads(metadata["simplecnn.fit"])) == Fit(DRAWING)


@pytest.mark.parametrize("change", ["opset", "fixed batch", "image shape", "other batch axis"])
def test_a_graph_with_another_signature_is_refused(graph: bytes, change: str) -> None:
    loaded = onnx.load_from_string(graph)
    pixels, output = loaded.graph.input[0].type.tensor_type.shape, loaded.graph.output[0].type.tensor_type.shape
    export.check_signature(loaded, (28, 28, 1))
    if change == "opset":
        loaded.opset_import[0].version = 17
    elif change == "fixed batch":
        pixels.dim[0].dim_value = output.dim[0].dim_value = 2
    elif change == "image shape":
        pixels.dim[1].dim_value = 29
    else:
        output.dim[0].dim_param = "M"
    with pytest.raises(ParityError, match="the exported graph has another signature"):
        export.check_signature(loaded, (28, 28, 1))


def test_pytorch_and_onnx_runtime_agree_alone_and_in_batches(
    model: Classifier, images: torch.Tensor, graph: bytes
) -> None:
    with torch.inference_mode():
        parity = export.check_parity(graph, images, model(images))
    assert parity.max_abs_diff <= 1e-5 and parity.batch_max_abs_diff <= 1e-5
    assert parity.probabilities.shape == (130, 10)


@pytest.mark.parametrize("change", [2e-5, float("nan")])
def test_a_probability_that_differs_by_more_than_the_tolerance_is_refused(
    model: Classifier, images: torch.Tensor, graph: bytes, change: float
) -> None:
    with torch.no_grad():
        expected = model(images)
    expected[7, 3] += change
    with pytest.raises(ParityError, match="nothing was published"):
        export.check_parity(graph, images, expected)


def test_a_different_label_is_refused(model: Classifier, images: torch.Tensor, graph: bytes) -> None:
    with torch.no_grad():
        expected = model(images)
    expected[0] = expected[0].roll(1)
    with pytest.raises(ParityError, match="1 of 130 labels differ"):
        export.check_parity(graph, images, expected)


@pytest.mark.parametrize(("gap", "change", "is_tie"), [(5e-6, 4e-6, True), (1.6e-5, 9e-6, False)])
def test_a_different_label_is_a_tie_only_if_both_classes_are_within_the_tolerance(
    monkeypatch: pytest.MonkeyPatch, gap: float, change: float, is_tie: bool
) -> None:
    expected = torch.tensor([[0.9, 0.1, 0.0], [0.4, 0.4 - gap, 0.2]])
    found = expected + torch.tensor([[0.0, 0.0, 0.0], [-change, change, 0.0]])
    assert found[1].argmax() == 1 and (found - expected).abs().max() <= export.TOLERANCE
    monkeypatch.setattr(export, "runner", lambda _: lambda pixels: found.numpy()[pixels[:, 0, 0, 0]])
    images = torch.arange(2, dtype=torch.uint8)[:, None, None, None]  # the first pixel is the index of the row
    if is_tie:
        assert export.check_parity(b"", images, expected).ties == 1
    else:
        with pytest.raises(ParityError, match="1 of 2 labels differ"):
            export.check_parity(b"", images, expected)


def test_golden_samples_are_the_first_and_the_least_confident_correct_image_of_each_class() -> None:
    labels = torch.tensor([0, 0, 0, 1, 1, 2])
    of_true_class = torch.tensor([0.9, 0.6, 0.8, 0.7, 0.9, 0.3])  # the last image is misclassified as 0
    probabilities = torch.full((6, 3), 0.0)
    probabilities[range(6), labels] = of_true_class
    probabilities[range(6), (labels + 1) % 3] = 1 - of_true_class
    assert golden.golden_samples(probabilities, labels).tolist() == [0, 1, 3, 5]


def test_a_version_gets_the_next_number_and_all_its_files(tmp_path: Path) -> None:
    first, second = publish.publish(tmp_path, artifact()), publish.publish(tmp_path, artifact("another"))
    assert [first, second] == [tmp_path / "toy" / "1", tmp_path / "toy" / "2"]
    assert sorted(path.name for path in second.iterdir()) == ["README.md", "golden.npz", "manifest.json", "model.onnx"]
    names = sorted(path.name for path in (tmp_path / "toy").iterdir())
    assert names == [".last_version", "1", "2", "config.pbtxt", "labels.txt"]
    manifest = json.loads((second / "manifest.json").read_text())
    assert (manifest["model"], manifest["version"]) == ("toy", 2)
    assert manifest["graph_sha256"] == hashlib.sha256(artifact("another").model).hexdigest()
    assert manifest["sha256"] == hashlib.sha256((second / "model.onnx").read_bytes()).hexdigest()
    assert (second / "README.md").read_text() == "toy, version 2"
    assert manifest["golden_sha256"] == hashlib.sha256((second / "golden.npz").read_bytes()).hexdigest()
    assert manifest["labels"] == ["a", "b", "c"]
    with np.load(second / "golden.npz", allow_pickle=False) as golden:
        assert golden["labels"].tolist() == ["a", "b", "c"] and set(golden) == {"images", "probabilities", "labels"}
    assert (tmp_path / "toy" / "labels.txt").read_text() == "a\nb\nc\n"
    config = text_format.Parse((tmp_path / "toy" / "config.pbtxt").read_text(), ModelConfig())
    assert (config.name, config.platform, config.max_batch_size) == ("toy", "onnxruntime_onnx", 64)
    assert list(config.input[0].dims) == [4, 4, 1] and list(config.output[0].dims) == [3]
    assert config.HasField("dynamic_batching")


def test_publishing_keeps_an_operators_config(tmp_path: Path) -> None:
    publish.publish(tmp_path, artifact())
    (tmp_path / "toy" / "config.pbtxt").write_text("max_batch_size: 3")
    publish.publish(tmp_path, artifact())
    assert (tmp_path / "toy" / "config.pbtxt").read_text() == "max_batch_size: 3"


def test_the_next_version_number_follows_the_largest_and_ignores_other_names(tmp_path: Path) -> None:
    for name in ("2", "9", "10", "backup", "11.old"):
        (tmp_path / "toy" / name).mkdir(parents=True)
    assert publish.publish(tmp_path, artifact()).name == "11"


def test_the_number_of_a_deleted_version_is_not_used_again(tmp_path: Path) -> None:
    for _ in range(3):
        publish.publish(tmp_path, artifact())
    for number in ("3", "2"):
        shutil.rmtree(tmp_path / "toy" / number)
    assert publish.publish(tmp_path, artifact()).name == "4"


@pytest.mark.parametrize("content", [None, b"", b"many", b"-7", b"0", b"\xff", b"9" * 30])
def test_without_a_readable_last_version_the_next_number_follows_the_versions_on_disk(
    tmp_path: Path, content: bytes | None
) -> None:
    for _ in range(2):
        publish.publish(tmp_path, artifact())
    last = tmp_path / "toy" / ".last_version"
    last.unlink() if content is None else last.write_bytes(content)
    assert publish.publish(tmp_path, artifact()).name == "3"
    assert last.read_text() == "3\n"


class Killed(BaseException):
    """Stands in for the end of the process: nothing after it runs."""


@pytest.mark.parametrize(("at", "next_number"), [("toy/.2.tmp", "2"), ("toy/..last_version.tmp", "2"), ("toy/2", "3")])
def test_a_job_killed_at_any_rename_leaves_numbers_that_were_never_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str, next_number: str
) -> None:
    """Killed while the version is written, before .last_version appears, and before the version appears."""
    publish.publish(tmp_path, artifact())
    write, rename = write_and_sync, Path.rename

    def write_or_die(path: Path, content: bytes) -> None:
        if at == "toy/.2.tmp" and path.name == "golden.npz":
            raise Killed
        write(path, content)

    def rename_or_die(path: Path, target: Path) -> Path:
        if tmp_path / at in (path, target):
            raise Killed
        return rename(path, target)

    with monkeypatch.context() as patch:
        patch.setattr("training.publishing.publish.write_and_sync", write_or_die)
        patch.setattr(Path, "rename", rename_or_die)
        patch.setattr(Path, "unlink", lambda *_, **__: None)  # a killed job removes nothing
        patch.setattr(shutil, "rmtree", lambda *_, **__: None)
        with pytest.raises(Killed):
            publish.publish(tmp_path, artifact("lost"))
    assert publish.publish(tmp_path, artifact("new")).name == next_number
    names = sorted(path.name for path in (tmp_path / "toy").iterdir())
    assert names == [".last_version", "1", next_number, "config.pbtxt", "labels.txt"]


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_a_publication_that_fails_halfway_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    publish.publish(tmp_path, artifact())

    def fail(path: Path, content: bytes) -> None:
        if path.name == "golden.npz":
            raise error
        write_and_sync(path, content)

    monkeypatch.setattr("training.publishing.publish.write_and_sync", fail)
    with pytest.raises(type(error)):
        publish.publish(tmp_path, artifact())
    assert sorted(path.name for path in (tmp_path / "toy").iterdir()) == [
        ".last_version", "1", "config.pbtxt", "labels.txt",
    ]  # fmt: skip


def test_publishing_removes_what_a_killed_job_left(tmp_path: Path) -> None:
    (tmp_path / "toy" / ".1.tmp").mkdir(parents=True)
    (tmp_path / "toy" / ".1.tmp" / "model.onnx").write_bytes(b"half")
    version = publish.publish(tmp_path, artifact())
    assert not (tmp_path / "toy" / ".1.tmp").exists()
    assert (version / "model.onnx").read_bytes().startswith(artifact().model)
