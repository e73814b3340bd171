"""Loading versions that the training job published: hash, golden answers, and a message for each refusal."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.core.load_errors import DeviceUnavailable
from service.models.loader import LoadedModel, load
from service.models.reconciler import Reconciler
from service.models.registry import Registry, State
from service.models.repository.version_files import ModelFolder
from service.pictures.fit import DRAWING, RESIZE, Fit
from service.runtime.session import Engine
from tests.support.loading import CPU, load_only, refusal
from tests.support.models import copy_repository


@pytest.fixture
def repository(published: Path, tmp_path: Path) -> Path:
    """A copy of the published repository, which a test may change."""
    return copy_repository(published, tmp_path / "models")


def test_a_published_version_is_loaded_and_verified(repository: Path) -> None:
    model = load_only(repository)
    assert model.verified
    assert model.provider == "CPUExecutionProvider"
    assert model.spec.outputs[0].labels == tuple("0123456789")
    assert model.spec.max_batch_size == 64
    assert model.batcher.policy.levels[0].max_rows == 1024
    assert [tensor.shape for tensor in (*model.spec.inputs, *model.spec.outputs)] == [(28, 28, 1), (10,)]


def edit_manifest(repository: Path, **changes: object) -> None:
    path = repository / "mnist-simplecnn" / "1" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_golden(
    repository: Path, change: Callable[[dict[str, np.ndarray]], object], *, keep_manifest: bool = False
) -> None:
    """Change golden.npz and, unless `keep_manifest`, its hash in the manifest."""
    path = repository / "mnist-simplecnn" / "1" / "golden.npz"
    with np.load(path) as golden:
        arrays = dict(golden)
    change(arrays)
    np.savez(path, allow_pickle=False, **arrays)
    if not keep_manifest:
        edit_manifest(repository, golden_sha256=hashlib.sha256(path.read_bytes()).hexdigest())


def publish_without_labels(repository: Path) -> None:
    """Make the published version one of an older job, whose manifest has no labels."""
    edit_golden(repository, lambda arrays: arrays.pop("labels"))
    edit_manifest(repository, labels=None, golden_sha256="")


def test_a_graph_that_does_not_match_the_manifests_hash_is_refused(repository: Path) -> None:
    path = repository / "mnist-simplecnn" / "1" / "model.onnx"
    content = bytearray(path.read_bytes())
    content[-1000] ^= 1
    path.write_bytes(content)
    assert "expected SHA-256" in refusal(repository)


def test_a_golden_mismatch_is_refused(repository: Path) -> None:
    edit_golden(repository, lambda arrays: arrays["probabilities"].__iadd__(0.001))
    assert "golden mismatch at batch size 1: 'probabilities' differs by 1.00e-03" in refusal(repository)


def test_a_golden_label_mismatch_is_refused_at_any_tolerance(repository: Path) -> None:
    edit_manifest(repository, golden={"tolerance": 10.0})
    edit_golden(repository, lambda arrays: arrays.update(probabilities=np.roll(arrays["probabilities"], 1, axis=1)))
    assert "1 of 1 labels differ, first at sample 0" in refusal(repository)


def test_golden_answers_are_compared_in_every_batch_size(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Engine.run
    sizes: set[int] = set()

    def run_wrong_at_32(engine: Engine, inputs: Any) -> list[Any]:
        sizes.add(len(inputs[0]))
        answer: Any = run(engine, inputs)[0]
        return [answer + np.float32(0.01) if len(answer) == 32 else answer]

    monkeypatch.setattr(Engine, "run", run_wrong_at_32)
    assert "at batch size 32" in refusal(repository)
    assert sizes == {1, 2, 4, 8, 16, 32}


def test_nan_in_golden_answers_is_refused(repository: Path) -> None:
    edit_golden(repository, lambda arrays: arrays["probabilities"].fill(np.nan))
    assert "golden mismatch" in refusal(repository)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "golden.npz").unlink(), "golden.npz cannot be read"),
        (
            lambda folder: (folder / "golden.npz").write_bytes(b"PK half a file"),
            "golden.npz does not match its manifest",
        ),
        (lambda folder: (folder / "manifest.json").write_text("{"), "manifest.json cannot be read"),
        (lambda folder: (folder / "manifest.json").write_text("[]"), "manifest.json cannot be read"),
        (lambda folder: (folder / "model.onnx").unlink(), "model.onnx cannot be read: No such file"),
        (lambda folder: (folder.parent / "config.pbtxt").write_text("max_batch_size: many"), "cannot be read: 1:17"),
        (lambda folder: (folder.parent / "config.pbtxt").write_text('name: "other"'), "names the model 'other'"),
    ],
)
def test_an_invalid_file_is_refused_by_name(repository: Path, change: Callable[[Path], object], message: str) -> None:
    change(repository / "mnist-simplecnn" / "1")
    assert message in refusal(repository)


def test_a_manifest_of_another_model_is_refused(repository: Path) -> None:
    edit_manifest(repository, model="cifar10-cnn")
    assert "describes the model 'cifar10-cnn', not 'mnist-simplecnn'" in refusal(repository)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "1" / "golden.npz").write_bytes(b"PK half a file"), "golden.npz cannot be read"),
        (lambda folder: (folder / "labels.txt").unlink(), "labels.txt cannot be read"),
        (lambda folder: (folder / "labels.txt").write_bytes(b"\xff\xfea"), "labels.txt cannot be read"),
        (
            lambda folder: (folder / "config.pbtxt").write_text(
                (folder / "config.pbtxt").read_text().replace("labels.txt", "../../../etc/passwd")
            ),
            "points outside",
        ),
    ],
)
def test_an_invalid_file_of_a_version_without_labels_in_its_manifest_is_refused(
    repository: Path, change: Callable[[Path], object], message: str
) -> None:
    publish_without_labels(repository)
    assert load_only(repository).spec.outputs[0].labels == tuple("0123456789"), "the control"
    change(repository / "mnist-simplecnn")
    assert message in refusal(repository)


SWAPPED = ["1", "0", *"23456789"]


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda repository: edit_manifest(repository, labels=SWAPPED), "other labels than its manifest"),
        (lambda repository: edit_manifest(repository, labels=list("012345678")), "other labels than its manifest"),
        (lambda repository: edit_manifest(repository, labels=[]), "other labels than its manifest"),
        (lambda repository: edit_manifest(repository, labels=None), "other labels than its manifest"),
        (lambda repository: edit_manifest(repository, labels="0123456789"), "manifest.json cannot be read"),
        (lambda repository: edit_manifest(repository, golden_sha256=""), "does not match its manifest"),
        (
            lambda repository: edit_golden(
                repository, lambda arrays: arrays.update(labels=np.array(SWAPPED)), keep_manifest=True
            ),
            "does not match its manifest",
        ),
        (
            lambda repository: edit_golden(repository, lambda arrays: arrays.pop("labels")),
            "other labels than its manifest",
        ),
    ],
)
def test_an_edit_of_labels_in_one_of_manifest_and_golden_samples_is_refused(
    repository: Path, edit: Callable[[Path], object], message: str
) -> None:
    edit(repository)
    assert message in refusal(repository)


def test_a_version_is_loaded_with_the_fit_that_its_manifest_or_else_its_graph_records(repository: Path) -> None:
    assert load_only(repository).fit == Fit(DRAWING)
    edit_manifest(repository, fit=None)
    model = load_only(repository)
    assert model.fit == Fit(DRAWING) and model.pictures_verified == 4


def test_a_manifest_whose_fit_was_edited_is_refused(repository: Path) -> None:
    edit_manifest(repository, fit=Fit(RESIZE).record())
    assert "records the fit resize (version 1), the graph the fit drawing (version 1, share" in refusal(repository)


def test_a_golden_picture_that_was_exchanged_is_refused_by_name(repository: Path) -> None:
    edit_golden(repository, lambda arrays: arrays.update({"picture:turned.jpg": arrays["picture:photo.jpg"]}))
    assert "golden picture turned.jpg, with the fit drawing" in refusal(repository)


def test_a_manifest_with_another_number_of_labels_than_classes_is_refused(repository: Path) -> None:
    labels = list("012345678")
    edit_golden(repository, lambda arrays: arrays.update(labels=np.array(labels)))
    edit_manifest(repository, labels=labels)
    assert "manifest.json has 9 labels, but output 'probabilities' has 10 classes" in refusal(repository)


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: (folder / "labels.txt").write_text("cat\ndog\n"),
        lambda folder: (folder / "labels.txt").unlink(),
        lambda folder: (folder / "config.pbtxt").unlink(),
    ],
    ids=["other labels", "no labels.txt", "no config.pbtxt"],
)
def test_the_models_label_file_decides_nothing_about_a_version_with_labels_in_its_manifest(
    repository: Path, change: Callable[[Path], object]
) -> None:
    change(repository / "mnist-simplecnn")
    assert load_only(repository).spec.outputs[0].labels == tuple("0123456789")


def test_a_model_that_an_operator_set_to_run_alone_keeps_its_labels(repository: Path) -> None:
    (repository / "mnist-simplecnn" / "config.pbtxt").write_text(
        'input { name: "images" data_type: TYPE_UINT8 dims: [ -1, 28, 28, 1 ] } '
        'output { name: "probabilities" data_type: TYPE_FP32 dims: [ -1, 10 ] }'
    )
    model = load_only(repository)
    assert model.spec.max_batch_size == 0 and model.spec.outputs[0].labels == tuple("0123456789")


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (lambda folder: (folder / "1" / "golden.npz").unlink(), "files"),
        (lambda folder: (folder / "config.pbtxt").write_text("max_batch_size: -1"), "configuration"),
        (
            lambda folder: (folder / "1" / "manifest.json").unlink() or (folder / "1" / "model.onnx").write_bytes(b"x"),
            "graph",
        ),
        (lambda folder: edit_golden(folder.parent, lambda golden: golden["probabilities"].fill(0.1)), "golden"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_refused_version_has_a_reason_code(repository: Path, spoil: Callable[[Path], object], code: str) -> None:
    spoil(repository / "mnist-simplecnn")
    registry = Registry(repository)
    Reconciler(repository, registry, lambda folder, version: load(folder, version, CPU)).reconcile()
    assert [status.code for status in registry.index() if status.state is State.UNAVAILABLE] == [code]


@pytest.mark.parametrize(
    ("error", "code"), [(DeviceUnavailable("no such GPU"), "device"), (ZeroDivisionError(), "error")]
)
def test_an_error_of_the_loader_has_a_reason_code(repository: Path, error: Exception, code: str) -> None:
    def fail(folder: ModelFolder, version: int) -> LoadedModel:
        raise error

    registry = Registry(repository)
    Reconciler(repository, registry, fail).reconcile()
    assert [status.code for status in registry.index()] == [code]
