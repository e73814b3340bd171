"""The registry is one frozen snapshot; ready does not depend on models that are new or refused; texts are bounded."""

import dataclasses
from pathlib import Path

import pytest

from service.core.errors import NotFound, NotReady
from service.models.engine_settings import EngineOptions
from service.models.loader import LoadedModel, load
from service.models.reconciler import Reconciler
from service.models.registry import MAX_REASON_BYTES, Registry, State
from service.models.repository.version_files import ModelFolder
from tests.support.models import add_version, doubling_model

CPU = EngineOptions(["cpu"], 1)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """The model `double` with version 1."""
    add_version(tmp_path / "models", "double", doubling_model())
    return tmp_path / "models"


def reconciled(repository: Path, *, strict: bool = False) -> tuple[Registry, Reconciler]:
    registry = Registry(repository, strict=strict)
    reconciler = Reconciler(repository, registry, lambda folder, version: load(folder, version, CPU))
    reconciler.reconcile()
    return registry, reconciler


# --- one snapshot ---


def test_a_snapshot_stays_as_it_is_while_the_registry_moves_on(repository: Path) -> None:
    registry, reconciler = reconciled(repository)
    before = registry.snapshot
    add_version(repository, "double", doubling_model(), version=2)
    reconciler.reconcile()
    assert before.get("double").spec.version == 1 and list(before.versions("double")) == [1]
    assert [status.version for status in before.index()] == [1]
    after = registry.snapshot
    assert after.get("double").spec.version == 2 and list(after.versions("double")) == [2]
    with pytest.raises(dataclasses.FrozenInstanceError):
        after.problem = "changed"  # type: ignore[misc] # that is the claim


def test_during_the_first_look_a_model_that_was_not_reached_yet_is_not_ready(repository: Path) -> None:
    """A client that retries waits for it, where NOT_FOUND would end its call."""
    add_version(repository, "later", doubling_model())
    errors = []
    registry = Registry(repository)

    def load_and_ask(folder: ModelFolder, version: int) -> LoadedModel:
        with pytest.raises((NotFound, NotReady)) as caught:
            registry.get("later")
        errors.append(caught.type)
        return load(folder, version, CPU)

    Reconciler(repository, registry, load_and_ask).reconcile()
    assert errors == [NotReady, NotReady]


def test_in_every_snapshot_the_states_and_the_routes_agree(repository: Path) -> None:
    """A reader sees no moment in which a version is ready and does not answer, or answers and has no state."""
    snapshots = []
    registry = Registry(repository, on_change=lambda: snapshots.append(registry.snapshot))
    reconciler = Reconciler(repository, registry, lambda folder, version: load(folder, version, CPU))
    reconciler.reconcile()
    for version in (2, 3):
        add_version(repository, "double", doubling_model(), version=version)
        reconciler.reconcile()
    reconciler.unload("double")
    reconciler.load("double")
    for snapshot in snapshots:
        ready = {status.version for status in snapshot.index() if status.state is State.READY}
        assert ready == set(snapshot.versions("double"))
        assert bool(ready) == bool(snapshot.serving_models())


def test_a_look_that_finds_nothing_new_changes_no_entry(repository: Path) -> None:
    registry, reconciler = reconciled(repository)
    before = registry.snapshot
    reconciler.reconcile()
    assert registry.snapshot.entries["double"] is before.entries["double"]


# --- ready ---


def test_a_new_model_that_is_refused_leaves_the_server_ready(repository: Path) -> None:
    add_version(repository, "broken", b"no graph")
    registry, _ = reconciled(repository)
    assert registry.unready_reason() == ""
    assert registry.snapshot.serving_models() == {"double"}
    assert registry.index()[0].code == "graph"


def test_with_strict_readiness_every_model_must_answer(repository: Path) -> None:
    registry, reconciler = reconciled(repository, strict=True)
    assert registry.unready_reason() == ""
    add_version(repository, "broken", b"no graph")
    (repository / "notes").mkdir()
    reconciler.reconcile()
    assert registry.unready_reason().startswith("a model does not answer: broken 1: model.onnx cannot be opened")
    reconciler.unload("broken")
    assert registry.unready_reason() == "", "an operator unloaded it"


def test_a_server_whose_models_are_all_refused_is_not_ready_and_says_why(tmp_path: Path) -> None:
    for name in ("a", "b"):
        add_version(tmp_path, name, b"no graph")
    registry, reconciler = reconciled(tmp_path)
    reason = registry.unready_reason()
    assert reason.startswith("no model answers: a 1: model.onnx cannot be opened") and "; b 1: " in reason
    add_version(tmp_path, "a", doubling_model(), version=2)
    reconciler.reconcile()
    assert registry.unready_reason() == ""


def test_a_model_that_is_removed_leaves_the_server_ready_while_another_answers(repository: Path) -> None:
    add_version(repository, "other", doubling_model())
    registry, reconciler = reconciled(repository)
    (repository / "other").rename(repository.parent / "gone")
    reconciler.reconcile()
    assert registry.unready_reason() == ""
    reconciler.unload("double")
    assert registry.unready_reason() == "all models were unloaded"
    (repository / "double").rename(repository.parent / "gone too")
    reconciler.reconcile()
    hint = "run the training job (in Docker Compose: docker compose run --rm training)"
    assert registry.unready_reason() == f"the repository {repository} holds no models: {hint}"


@pytest.mark.parametrize("strict", [False, True])
def test_one_broken_engine_makes_the_server_unready(repository: Path, strict: bool) -> None:
    add_version(repository, "other", doubling_model())
    registry, _ = reconciled(repository, strict=strict)
    registry.get("other").batcher.broken = "the device is lost"
    assert "other 1: the device is lost" in registry.unready_reason()
    assert [(status.name, status.code) for status in registry.index()] == [("double", ""), ("other", "engine")]


# --- bounded texts ---


def test_the_reason_for_being_unready_and_the_errors_of_look_ups_are_bounded(tmp_path: Path) -> None:
    for index in range(340):
        add_version(tmp_path, f"{index:03}-{'ü' * 100}", b"no graph")
    registry, _ = reconciled(tmp_path)
    reason = registry.unready_reason()
    assert len(reason.encode()) <= MAX_REASON_BYTES == 1024
    assert reason.startswith("no model answers (340 models, of which 3 are listed): 000-")
    with pytest.raises(NotFound, match=r"model 'typo' is not found; there are \['000-ü+…', ") as caught:
        registry.get("typo")
    assert len(str(caught.value).encode()) < MAX_REASON_BYTES
