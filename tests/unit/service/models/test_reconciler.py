"""Loaded versions follow the repository, and a bad or half-written version never gets requests."""

import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from service.core.errors import NotFound, NotReady
from service.models.loader import EngineOptions, LoadedModel, load
from service.models.reconciler import Reconciler
from service.models.registry import Registry, State
from service.models.repository import ModelFolder
from tests.support.models import add_version, doubling_model
from tests.support.waiting import WAIT

CPU = EngineOptions(["cpu"], 1)


class RecordingLoader:
    """The real loader, which records each call as (model, version)."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int]] = []

    def __call__(self, folder: ModelFolder, version: int) -> LoadedModel:
        self.calls.append((folder.name, version))
        return load(folder, version, CPU)


@pytest.fixture
def loader() -> RecordingLoader:
    return RecordingLoader()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """The model `double` in versions 1 and 2."""
    for version in (1, 2):
        add_version(tmp_path / "models", "double", doubling_model(), version=version)
    return tmp_path / "models"


def states(registry: Registry) -> list[tuple[str, int, State]]:
    return [(status.name, status.version, status.state) for status in registry.index()]


def loaded_versions(registry: Registry, name: str = "double") -> list[int]:
    return sorted(model.spec.version for model in registry.models() if model.spec.name == name)


def write_invalid_graph(repository: Path, version: int) -> None:
    (repository / "double" / str(version)).mkdir(exist_ok=True)
    (repository / "double" / str(version) / "model.onnx").write_bytes(b"not a graph")


def test_before_the_first_reconciliation_no_model_is_ready(repository: Path, loader: RecordingLoader) -> None:
    registry = Registry(repository)
    assert registry.unready_reason() == "models are still loading"
    with pytest.raises(NotReady, match="models are still loading"):
        registry.get("double")


def test_the_newest_version_is_served_by_default(repository: Path, loader: RecordingLoader) -> None:
    registry = Registry(repository)
    reconciler = Reconciler(repository, registry, loader)
    reconciler.reconcile()
    assert registry.unready_reason() == ""
    assert registry.get("double") is registry.get("double", "2")
    assert states(registry) == [("double", 2, State.READY)]
    with pytest.raises(NotFound, match=r"no version '1'; there are \['2'\]"):
        registry.get("double", "1")


@pytest.mark.parametrize(
    ("policy", "versions"),
    [
        ("latest { num_versions: 1 }", [3]),
        ("latest { num_versions: 2 }", [2, 3]),
        ("all { }", [1, 2, 3]),
        ("specific { versions: [ 1, 3 ] }", [1, 3]),
    ],
)
def test_the_version_policy_selects_versions(
    repository: Path, loader: RecordingLoader, policy: str, versions: list[int]
) -> None:
    add_version(repository, "double", doubling_model(), version=3, config=f"version_policy: {{ {policy} }}")
    registry = Registry(repository)
    reconciler = Reconciler(repository, registry, loader)
    reconciler.reconcile()
    assert loaded_versions(registry) == versions
    assert registry.get("double").spec.version == versions[-1]


def test_a_version_that_the_policy_selects_but_the_repository_lacks_is_reported(
    repository: Path, loader: RecordingLoader
) -> None:
    (repository / "double" / "config.pbtxt").write_text("version_policy: { specific { versions: [ 1, 9 ] } }")
    registry = Registry(repository)
    reconciler = Reconciler(repository, registry, loader)
    reconciler.reconcile()
    assert loaded_versions(registry) == [1]
    with pytest.raises(NotReady, match="selects version 9, which is not in"):
        registry.get("double", "9")


def test_a_version_is_loaded_once_and_a_refused_version_again_when_its_files_change(
    repository: Path, loader: RecordingLoader
) -> None:
    write_invalid_graph(repository, 3)
    registry = Registry(repository)
    reconciler = Reconciler(repository, registry, loader)
    for _ in range(3):
        reconciler.reconcile()
    assert loader.calls == [("double", 3), ("double", 2)]
    shutil.copy(repository / "double" / "2" / "model.onnx", repository / "double" / "3" / "model.onnx")
    reconciler.reconcile()
    assert loader.calls[2:] == [("double", 3)]
    assert loaded_versions(registry) == [3]


def test_a_new_version_does_not_reload_the_other_versions(repository: Path, loader: RecordingLoader) -> None:
    """add_version() also changes the modification time of the model's folder."""
    output = 'output { name: "y" data_type: TYPE_FP32 dims: [ 4 ] }'
    (repository / "double" / "config.pbtxt").write_text(f"max_batch_size: 8 {output} version_policy {{ all {{ }} }}")
    registry = Registry(repository)
    reconciler = Reconciler(repository, registry, loader)
    reconciler.reconcile()
    add_version(repository, "double", doubling_model(), version=3)
    reconciler.reconcile()
    assert loader.calls == [("double", 2), ("double", 1), ("double", 3)]


def test_a_bad_new_version_gets_no_requests_and_its_reason_is_reported(
    repository: Path, loader: RecordingLoader
) -> None:
    registry = Registry(repository)
    reconciler = Reconciler(repository, registry, loader)
    reconciler.reconcile()
    before = registry.get("double")
    write_invalid_graph(repository, 3)
    reconciler.reconcile()
    assert registry.get("double") is before
    assert states(registry) == [("double", 2, State.READY), ("double", 3, State.UNAVAILABLE)]
    assert "model.onnx cannot be opened" in registry.index()[1].reason
    assert registry.unready_reason() == "", "the loaded version still serves"
    with pytest.raises(NotReady, match=r"model\.onnx cannot be opened"):
        registry.get("double", "3")


def test_if_the_newest_version_is_bad_at_start_the_previous_version_serves(
    repository: Path, loader: RecordingLoader
) -> None:
    write_invalid_graph(repository, 3)
    registry = Registry(repository)
    reconciler = Reconciler(repository, registry, loader)
    reconciler.reconcile()
    assert loaded_versions(registry) == [2]


def test_a_new_version_replaces_the_old_version_which_is_drained(repository: Path, loader: RecordingLoader) -> None:
    registry = Registry(repository)
    reconciler = Reconciler(repository, registry, loader)
    reconciler.reconcile()
    old = registry.get("double")
    add_version(repository, "double", doubling_model(), version=3)
    reconciler.reconcile()
    assert loaded_versions(registry) == [3]
    assert old.batcher.join(WAIT), "the old version's engine thread has not ended"


def test_deleting_a_version_rolls_back(repository: Path, loader: RecordingLoader) -> None:
    registry = Registry(repository)
    reconciler = Reconciler(repository, registry, loader)
    reconciler.reconcile()
    shutil.rmtree(repository / "double" / "2")
    reconciler.reconcile()
    assert loaded_versions(registry) == [1]


def test_a_deleted_model_is_unloaded_and_an_empty_repository_is_not_ready(
    repository: Path, loader: RecordingLoader
) -> None:
    registry = Registry(repository)
    reconciler = Reconciler(repository, registry, loader)
    reconciler.reconcile()
    shutil.rmtree(repository / "double")
    reconciler.reconcile()
    assert registry.models() == [] and registry.index() == []
    assert "holds no models" in registry.unready_reason()


def test_an_unreadable_repository_keeps_the_loaded_models(repository: Path, loader: RecordingLoader) -> None:
    registry = Registry(repository)
    reconciler = Reconciler(repository, registry, loader)
    reconciler.reconcile()
    repository.rename(repository.with_name("away"))
    reconciler.reconcile()
    assert loaded_versions(registry) == [2] and registry.unready_reason() == ""


def test_an_unreadable_configuration_keeps_the_loaded_version_and_is_reported(
    repository: Path, loader: RecordingLoader
) -> None:
    registry = Registry(repository)
    reconciler = Reconciler(repository, registry, loader)
    reconciler.reconcile()
    (repository / "double" / "config.pbtxt").write_text("max_batch_size: oops")
    reconciler.reconcile()
    assert loaded_versions(registry) == [2]
    assert any("config.pbtxt cannot be read" in status.reason for status in registry.index())


def test_a_bad_model_does_not_stop_the_other_models(repository: Path, loader: RecordingLoader) -> None:
    add_version(repository, "broken", b"not a graph")
    (repository / "empty").mkdir()
    registry = Registry(repository)
    reconciler = Reconciler(repository, registry, loader)
    reconciler.reconcile()
    assert loaded_versions(registry) == [2]
    reason = registry.unready_reason()
    assert "broken 1: model.onnx cannot be opened" in reason and "holds no version" in reason


def test_a_crash_of_the_loader_refuses_only_that_version(repository: Path) -> None:
    def crash(folder: ModelFolder, version: int) -> LoadedModel:
        if version == 2:
            raise ZeroDivisionError
        return load(folder, version, CPU)

    registry = Registry(repository)
    reconciler = Reconciler(repository, registry, crash)
    reconciler.reconcile()
    assert loaded_versions(registry) == [1]
    assert "ZeroDivisionError" in registry.index()[1].reason


def test_on_change_is_called_after_a_change(repository: Path) -> None:
    calls: list[int] = []
    record: Callable[[], None] = lambda: calls.append(1)  # noqa: E731 # a function that counts
    registry = Registry(repository, on_change=record)
    reconciler = Reconciler(repository, registry, lambda folder, version: load(folder, version, CPU))
    reconciler.reconcile()
    assert calls


def test_a_half_written_version_is_refused_until_it_is_complete(repository: Path, loader: RecordingLoader) -> None:
    registry = Registry(repository)
    reconciler = Reconciler(repository, registry, loader)
    reconciler.reconcile()
    complete = (repository / "double" / "2" / "model.onnx").read_bytes()
    folder = repository / "double" / "3"
    folder.mkdir()
    reconciler.reconcile()
    assert "model.onnx cannot be read: No such file" in registry.index()[1].reason
    (folder / "model.onnx").write_bytes(complete[:-20])
    reconciler.reconcile()
    assert "model.onnx cannot be opened" in registry.index()[1].reason
    assert loaded_versions(registry) == [2]
    (folder / "model.onnx").write_bytes(complete)
    reconciler.reconcile()
    assert states(registry) == [("double", 3, State.READY)]


def test_concurrent_loads_load_a_version_once(repository: Path, loader: RecordingLoader) -> None:
    registry = Registry(repository)
    reconciler = Reconciler(repository, registry, loader)
    threads = [threading.Thread(target=reconciler.load, args=("double",)) for _ in range(4)]
    threads += [threading.Thread(target=reconciler.reconcile) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT)
    assert loader.calls == [("double", 2)]
    assert states(registry) == [("double", 2, State.READY)]
