"""What is loaded follows what is on disk, and traffic never meets a bad or half-made version."""

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


class Loads:
    """The real loader, and a record of what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, int]] = []

    def __call__(self, folder: ModelFolder, version: int) -> LoadedModel:
        self.asked.append((folder.name, version))
        return load(folder, version, CPU)


@pytest.fixture
def loads() -> Loads:
    return Loads()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """`double` in versions 1 and 2."""
    for version in (1, 2):
        add_version(tmp_path / "models", "double", doubling_model(), version=version)
    return tmp_path / "models"


def states(registry: Registry) -> list[tuple[str, int, State]]:
    return [(status.name, status.version, status.state) for status in registry.index()]


def served(registry: Registry, name: str = "double") -> list[int]:
    return sorted(model.spec.version for model in registry.models() if model.spec.name == name)


def spoil(repository: Path, version: int) -> None:
    (repository / "double" / str(version)).mkdir(exist_ok=True)
    (repository / "double" / str(version) / "model.onnx").write_bytes(b"not a graph")


def test_before_the_first_look_nothing_is_ready(repository: Path, loads: Loads) -> None:
    registry = Registry(repository)
    assert registry.unready_reason() == "models are still loading"
    with pytest.raises(NotReady, match="models are still loading"):
        registry.get("double")


def test_the_newest_version_is_served_by_default(repository: Path, loads: Loads) -> None:
    registry = Registry(repository)
    reconciler = Reconciler(repository, registry, loads)
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
def test_version_policies(repository: Path, loads: Loads, policy: str, versions: list[int]) -> None:
    add_version(repository, "double", doubling_model(), version=3, config=f"version_policy: {{ {policy} }}")
    registry = Registry(repository)
    reconciler = Reconciler(repository, registry, loads)
    reconciler.reconcile()
    assert served(registry) == versions
    assert registry.get("double").spec.version == versions[-1]


def test_a_version_that_a_policy_names_but_is_not_there_is_reported(repository: Path, loads: Loads) -> None:
    (repository / "double" / "config.pbtxt").write_text("version_policy: { specific { versions: [ 1, 9 ] } }")
    registry = Registry(repository)
    reconciler = Reconciler(repository, registry, loads)
    reconciler.reconcile()
    assert served(registry) == [1]
    with pytest.raises(NotReady, match="selects version 9, which is not in"):
        registry.get("double", "9")


def test_nothing_is_loaded_twice_and_a_refused_version_only_when_its_files_change(
    repository: Path, loads: Loads
) -> None:
    spoil(repository, 3)
    registry = Registry(repository)
    reconciler = Reconciler(repository, registry, loads)
    for _ in range(3):
        reconciler.reconcile()
    assert loads.asked == [("double", 3), ("double", 2)]
    shutil.copy(repository / "double" / "2" / "model.onnx", repository / "double" / "3" / "model.onnx")
    reconciler.reconcile()
    assert loads.asked[2:] == [("double", 3)]
    assert served(registry) == [3]


def test_a_new_version_beside_others_loads_nothing_but_itself(repository: Path, loads: Loads) -> None:
    """Whatever else its arrival changes in the model's folder."""
    output = 'output { name: "y" data_type: TYPE_FP32 dims: [ 4 ] }'
    (repository / "double" / "config.pbtxt").write_text(f"max_batch_size: 8 {output} version_policy {{ all {{ }} }}")
    registry = Registry(repository)
    reconciler = Reconciler(repository, registry, loads)
    reconciler.reconcile()
    add_version(repository, "double", doubling_model(), version=3)
    reconciler.reconcile()
    assert loads.asked == [("double", 2), ("double", 1), ("double", 3)]


def test_a_bad_new_version_never_takes_traffic_and_shows_why(repository: Path, loads: Loads) -> None:
    registry = Registry(repository)
    reconciler = Reconciler(repository, registry, loads)
    reconciler.reconcile()
    before = registry.get("double")
    spoil(repository, 3)
    reconciler.reconcile()
    assert registry.get("double") is before
    assert states(registry) == [("double", 2, State.READY), ("double", 3, State.UNAVAILABLE)]
    assert "model.onnx cannot be opened" in registry.index()[1].reason
    assert registry.unready_reason() == "", "the model still answers"
    with pytest.raises(NotReady, match=r"model\.onnx cannot be opened"):
        registry.get("double", "3")


def test_a_start_with_a_bad_newest_version_serves_the_one_before(repository: Path, loads: Loads) -> None:
    spoil(repository, 3)
    registry = Registry(repository)
    reconciler = Reconciler(repository, registry, loads)
    reconciler.reconcile()
    assert served(registry) == [2]


def test_a_new_version_replaces_the_old_which_answers_what_it_has(repository: Path, loads: Loads) -> None:
    registry = Registry(repository)
    reconciler = Reconciler(repository, registry, loads)
    reconciler.reconcile()
    old = registry.get("double")
    add_version(repository, "double", doubling_model(), version=3)
    reconciler.reconcile()
    assert served(registry) == [3]
    assert old.batcher.join(WAIT), "the old version's engine still runs"


def test_deleting_a_version_rolls_back(repository: Path, loads: Loads) -> None:
    registry = Registry(repository)
    reconciler = Reconciler(repository, registry, loads)
    reconciler.reconcile()
    shutil.rmtree(repository / "double" / "2")
    reconciler.reconcile()
    assert served(registry) == [1]


def test_a_model_that_is_gone_is_unloaded_and_an_empty_repository_is_not_ready(repository: Path, loads: Loads) -> None:
    registry = Registry(repository)
    reconciler = Reconciler(repository, registry, loads)
    reconciler.reconcile()
    shutil.rmtree(repository / "double")
    reconciler.reconcile()
    assert registry.models() == [] and registry.index() == []
    assert "holds no models" in registry.unready_reason()


def test_a_repository_that_cannot_be_read_changes_nothing(repository: Path, loads: Loads) -> None:
    registry = Registry(repository)
    reconciler = Reconciler(repository, registry, loads)
    reconciler.reconcile()
    repository.rename(repository.with_name("away"))
    reconciler.reconcile()
    assert served(registry) == [2] and registry.unready_reason() == ""


def test_a_configuration_that_becomes_unreadable_changes_nothing_but_is_shown(repository: Path, loads: Loads) -> None:
    registry = Registry(repository)
    reconciler = Reconciler(repository, registry, loads)
    reconciler.reconcile()
    (repository / "double" / "config.pbtxt").write_text("max_batch_size: oops")
    reconciler.reconcile()
    assert served(registry) == [2]
    assert any("config.pbtxt cannot be read" in status.reason for status in registry.index())


def test_one_bad_model_does_not_keep_the_others_from_answering(repository: Path, loads: Loads) -> None:
    add_version(repository, "broken", b"not a graph")
    (repository / "empty").mkdir()
    registry = Registry(repository)
    reconciler = Reconciler(repository, registry, loads)
    reconciler.reconcile()
    assert served(registry) == [2]
    reason = registry.unready_reason()
    assert "broken 1: model.onnx cannot be opened" in reason and "holds no version" in reason


def test_a_loader_that_crashes_refuses_its_version_alone(repository: Path) -> None:
    def crash(folder: ModelFolder, version: int) -> LoadedModel:
        if version == 2:
            raise ZeroDivisionError
        return load(folder, version, CPU)

    registry = Registry(repository)
    reconciler = Reconciler(repository, registry, crash)
    reconciler.reconcile()
    assert served(registry) == [1]
    assert "ZeroDivisionError" in registry.index()[1].reason


def test_changes_are_announced(repository: Path) -> None:
    announced: list[int] = []
    note: Callable[[], None] = lambda: announced.append(1)  # noqa: E731 # a function that counts
    registry = Registry(repository, on_change=note)
    reconciler = Reconciler(repository, registry, lambda folder, version: load(folder, version, CPU))
    reconciler.reconcile()
    assert announced


def test_a_half_written_version_is_refused_and_taken_once_it_is_whole(repository: Path, loads: Loads) -> None:
    registry = Registry(repository)
    reconciler = Reconciler(repository, registry, loads)
    reconciler.reconcile()
    whole = (repository / "double" / "2" / "model.onnx").read_bytes()
    folder = repository / "double" / "3"
    folder.mkdir()
    reconciler.reconcile()
    assert "model.onnx cannot be read: No such file" in registry.index()[1].reason
    (folder / "model.onnx").write_bytes(whole[:-20])
    reconciler.reconcile()
    assert "model.onnx cannot be opened" in registry.index()[1].reason
    assert served(registry) == [2]
    (folder / "model.onnx").write_bytes(whole)
    reconciler.reconcile()
    assert states(registry) == [("double", 3, State.READY)]


def test_two_loads_at_once_load_once(repository: Path, loads: Loads) -> None:
    registry = Registry(repository)
    reconciler = Reconciler(repository, registry, loads)
    threads = [threading.Thread(target=reconciler.load, args=("double",)) for _ in range(4)]
    threads += [threading.Thread(target=reconciler.reconcile) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT)
    assert loads.asked == [("double", 2)]
    assert states(registry) == [("double", 2, State.READY)]
