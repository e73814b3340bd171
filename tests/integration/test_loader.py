"""What is on disk, and which of it may take traffic: every refusal has a message that says what to mend."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.core.errors import LoadError
from service.models.loader import EngineOptions, LoadedModel, load
from service.models.repository import scan
from service.runtime.session import Engine
from tests.support.models import copy_repository

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
    assert "golden mismatch at batch size 1: 'probabilities' differs by 1.00e-03" in refusal(ours)


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
    assert "golden mismatch" in refusal(ours)


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
    assert "describes the model 'cifar10-cnn', not 'mnist-simplecnn'" in refusal(ours)


def test_a_label_file_outside_the_model_is_refused(ours: Path) -> None:
    path = ours / "mnist-simplecnn" / "config.pbtxt"
    path.write_text(path.read_text().replace("labels.txt", "../../../etc/passwd"))
    assert "points outside" in refusal(ours)
