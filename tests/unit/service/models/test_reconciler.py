"""Loaded versions follow the repository, and a bad or half-written version never gets requests."""

import errno
import os
import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from service.core.errors import NotFound, NotReady
from service.core.load_errors import FilesUnreadable, GraphError
from service.models.engine_settings import EngineOptions
from service.models.loader import LoadedModel, load
from service.models.reconciler import Reconciler
from service.models.registry import Registry, State
from service.models.repository.config import read_config
from service.models.repository.version_files import ModelFolder
from tests.support.disk import deny
from tests.support.graphs import weighted_model
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


def test_a_policy_that_selects_no_version_is_named(repository: Path, loader: RecordingLoader) -> None:
    (repository / "double" / "config.pbtxt").write_text("version_policy { specific { } }")
    registry = Registry(repository)
    Reconciler(repository, registry, loader).reconcile()
    assert [status.reason for status in registry.index()] == ["version_policy selects no version"]


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
    assert loaded_versions(registry) == [2] and registry.unready_reason() == ""
    assert states(registry) == [("broken", 1, State.UNAVAILABLE), ("double", 2, State.READY)]
    assert "model.onnx cannot be opened" in registry.index()[0].reason


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


def test_a_model_that_an_operator_unloads_and_loads_is_never_unknown(repository: Path, loader: RecordingLoader) -> None:
    reasons: list[str] = []

    def look_up() -> None:
        try:
            registry.get("double")
        except NotReady as error:
            reasons.append(error.message)

    registry = Registry(repository, on_change=look_up)
    reconciler = Reconciler(repository, registry, loader)
    reconciler.reconcile()
    reconciler.unload("double")
    reasons.clear()
    reconciler.load("double")
    assert reasons[0] == "model 'double' is loading: try again shortly"


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


# --- what identifies a version ---

ALL_VERSIONS = 'max_batch_size: 8 output { name: "y" data_type: TYPE_FP32 dims: [ 4 ] } version_policy { all { } }'


def touch(repository: Path) -> None:
    for path in repository.rglob("*"):
        os.utime(path, (0, 0))


def copy_with_other_times(repository: Path) -> None:
    shutil.copytree(repository / "double", repository / "copy", copy_function=shutil.copyfile)
    shutil.rmtree(repository / "double")
    (repository / "copy").rename(repository / "double")


def publish(repository: Path) -> None:
    """A new version, and config.pbtxt written anew with the same content, as the training job does."""
    add_version(repository, "double", doubling_model(), version=3, config=ALL_VERSIONS + "\n")


@pytest.mark.parametrize(("change", "loads"), [(touch, []), (copy_with_other_times, []), (publish, [("double", 3)])])
def test_a_version_whose_content_stays_the_same_is_not_loaded_again(
    repository: Path, loader: RecordingLoader, change: Callable[[Path], None], loads: list[tuple[str, int]]
) -> None:
    (repository / "double" / "config.pbtxt").write_text(ALL_VERSIONS)
    registry = Registry(repository)
    reconciler = Reconciler(repository, registry, loader)
    reconciler.reconcile()
    before = registry.get("double", "1"), registry.get("double", "2")
    loader.calls.clear()
    change(repository)
    reconciler.reconcile()
    assert loader.calls == loads
    assert (registry.get("double", "1"), registry.get("double", "2")) == before


def test_an_edit_in_place_that_keeps_size_and_time_is_loaded(repository: Path, loader: RecordingLoader) -> None:
    registry = Registry(repository)
    reconciler = Reconciler(repository, registry, loader)
    reconciler.reconcile()
    path = repository / "double" / "2" / "model.onnx"
    before = path.stat()
    path.write_bytes(path.read_bytes().replace(b"two", b"TWO"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    reconciler.reconcile()
    assert loader.calls == [("double", 2)] * 2


def test_files_that_change_while_they_are_loaded_are_loaded_again(repository: Path, loader: RecordingLoader) -> None:
    path = repository / "double" / "2" / "model.onnx"
    complete, other = doubling_model(), doubling_model().replace(b"two", b"TWO")

    def load_and_write(folder: ModelFolder, version: int) -> LoadedModel:
        path.write_bytes(other if len(loader.calls) == 0 else complete)
        return loader(folder, version)

    registry = Registry(repository)
    reconciler = Reconciler(repository, registry, load_and_write)
    for _ in range(4):
        reconciler.reconcile()
    assert loader.calls == [("double", 2)] * 3, "twice changed while it loaded, then stable"


# --- errors of reading may pass ---


def events(captured: Sequence[Mapping[str, object]]) -> list[object]:
    return [line["event"] for line in captured]


def test_what_could_not_be_read_is_tried_at_every_look_and_logged_once(repository: Path) -> None:
    calls: list[int] = []

    def fail(folder: ModelFolder, version: int) -> LoadedModel:
        calls.append(version)
        raise FilesUnreadable("the disk is away") if version == 2 else GraphError("no graph")

    registry = Registry(repository)
    reconciler = Reconciler(repository, registry, fail)
    with capture_logs() as captured:
        for _ in range(3):
            reconciler.reconcile()
    assert calls == [2, 1, 2, 2], "version 1 is refused for good, until its content changes"
    assert events(captured) == ["model refused"] * 2


@pytest.mark.parametrize("denied", ["double", "double/2", "double/2/model.onnx", "double/config.pbtxt"])
@pytest.mark.parametrize("code", [errno.EACCES, errno.EIO])
def test_a_model_that_cannot_be_read_is_refused_and_served_once_it_can(
    repository: Path, loader: RecordingLoader, monkeypatch: pytest.MonkeyPatch, denied: str, code: int
) -> None:
    shutil.rmtree(repository / "double" / "1")
    add_version(repository, "other", doubling_model())
    registry = Registry(repository)
    reconciler = Reconciler(repository, registry, loader)
    with monkeypatch.context() as patch, capture_logs() as captured:
        deny(patch, repository / denied, error=code)
        reconciler.reconcile()
        reconciler.reconcile()
    assert events(captured).count("model refused") == 1 and registry.unready_reason() == ""
    (refused,) = [status for status in registry.index() if status.name == "double"]
    assert refused.code == "files" and os.strerror(code) in refused.reason
    reconciler.reconcile()
    assert registry.get("double").spec.version == 2 and not any(status.code for status in registry.index())


@pytest.mark.parametrize("denied", ["double", "double/2", "double/2/model.onnx", "double/config.pbtxt"])
def test_a_served_model_that_becomes_unreadable_keeps_serving_and_is_not_loaded_again(
    repository: Path, loader: RecordingLoader, monkeypatch: pytest.MonkeyPatch, denied: str
) -> None:
    registry = Registry(repository)
    reconciler = Reconciler(repository, registry, loader)
    reconciler.reconcile()
    before = registry.get("double")
    with capture_logs() as captured:
        with monkeypatch.context() as patch:
            deny(patch, repository / denied)
            reconciler.reconcile()
        assert registry.get("double") is before and registry.unready_reason() == ""
        assert ("double", 2, State.READY) in states(registry), "it answers"
        assert any("Permission denied" in status.reason and status.code == "files" for status in registry.index())
        reconciler.reconcile()
    assert registry.get("double") is before and [status.code for status in registry.index()] == [""]
    assert events(captured) == ["model refused", "model no longer refused"]
    assert set(loader.calls[1:]) <= {("double", 2)}, "a load was tried, and refused"


def test_a_served_version_whose_files_are_replaced_by_bad_ones_is_ready_and_refused(
    repository: Path, loader: RecordingLoader
) -> None:
    registry = Registry(repository)
    reconciler = Reconciler(repository, registry, loader)
    reconciler.reconcile()
    before, good = registry.get("double"), (repository / "double" / "2" / "model.onnx").read_bytes()
    for _ in range(2):
        write_invalid_graph(repository, 2)
        reconciler.reconcile()
        (status,) = registry.index()
        assert (status.state, status.code) == (State.READY, "graph") and "cannot be opened" in status.reason
        (repository / "double" / "2" / "model.onnx").write_bytes(good)
        reconciler.reconcile()
        assert [(status.state, status.code) for status in registry.index()] == [(State.READY, "")]
    assert registry.get("double") is before


@pytest.mark.parametrize("name", ["model.onnx", "manifest.json"])
def test_a_pipe_in_place_of_a_file_blocks_nothing(repository: Path, loader: RecordingLoader, name: str) -> None:
    (repository / "double" / "2" / name).unlink(missing_ok=True)
    os.mkfifo(repository / "double" / "2" / name)
    os.mkfifo(repository / "double" / "config.pbtxt.tmp")
    registry = Registry(repository)
    Reconciler(repository, registry, loader).reconcile()
    assert loaded_versions(registry) == [1] and "it is not a regular file" in registry.index()[1].reason


@pytest.mark.parametrize("name", ["2/manifest.json", "config.pbtxt"])
def test_an_optional_file_that_is_a_link_to_nothing_is_not_passed_over(
    repository: Path, loader: RecordingLoader, name: str
) -> None:
    shutil.rmtree(repository / "double" / "1")
    (repository / "double" / name).unlink(missing_ok=True)
    (repository / "double" / name).symlink_to(repository / "nothing")
    registry = Registry(repository)
    reconciler = Reconciler(repository, registry, loader)
    reconciler.reconcile()
    assert registry.models() == [] and "it is a link to nothing" in registry.index()[0].reason
    (repository / "double" / name).unlink()
    reconciler.reconcile()
    assert loaded_versions(registry) == [2]


@pytest.mark.parametrize("linked", ["model.onnx", "folder", "weights"])
def test_weights_behind_a_link_are_part_of_the_version(
    repository: Path, loader: RecordingLoader, tmp_path: Path, linked: str
) -> None:
    """A version that lacked them is tried again once they are there, and loaded again when they are replaced."""
    shutil.rmtree(repository / "double" / "1")
    graph, release = repository / "double" / "2" / "model.onnx", repository / ".release"
    release.mkdir()
    model, content = weighted_model("weights/part" if linked == "weights" else "part")
    graph.unlink()
    if linked == "weights":
        graph.write_bytes(model)
        (graph.parent / "weights").symlink_to(release)
    else:
        (release / "model.onnx").write_bytes(model)
        graph.symlink_to(release if linked == "folder" else release / "model.onnx")
    registry = Registry(repository)
    reconciler = Reconciler(repository, registry, loader)
    reconciler.reconcile()
    assert "part does not exist" in registry.index()[0].reason
    (release / "part").write_bytes(content)
    reconciler.reconcile()
    before = registry.get("double")
    reconciler.reconcile()
    assert registry.get("double") is before
    (tmp_path / "other").write_bytes(bytes(len(content)))
    (tmp_path / "other").rename(release / "part")
    reconciler.reconcile()
    assert registry.get("double") is not before


# --- trouble of one model, and of the repository ---


def test_what_is_no_model_is_logged_once_and_again_when_it_comes_back(
    repository: Path, loader: RecordingLoader
) -> None:
    reconciler = Reconciler(repository, Registry(repository), loader)
    reconciler.reconcile()
    with capture_logs() as captured:
        for _ in range(2):
            (repository / "notes").mkdir()
            reconciler.reconcile()
            reconciler.reconcile()
            (repository / "notes").rmdir()
            reconciler.reconcile()
    assert [(line["event"], line["entry"]) for line in captured] == [("not a model, skipped", "notes")] * 2


def test_a_repository_that_is_readable_again_is_logged(repository: Path, loader: RecordingLoader) -> None:
    reconciler = Reconciler(repository, Registry(repository), loader)
    reconciler.reconcile()
    with capture_logs() as captured:
        repository.rename(repository.with_name("away"))
        reconciler.reconcile()
        reconciler.reconcile()
        repository.with_name("away").rename(repository)
        reconciler.reconcile()
    assert events(captured) == ["repository unreadable, keeping loaded models", "repository readable again"]


def test_what_is_known_of_a_refused_version_outlasts_a_look_that_could_not_read_the_model(
    repository: Path, loader: RecordingLoader, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_invalid_graph(repository, 3)
    registry = Registry(repository)
    reconciler = Reconciler(repository, registry, loader)
    reconciler.reconcile()
    calls = list(loader.calls)
    with monkeypatch.context() as patch:
        deny(patch, repository / "double")
        reconciler.reconcile()
    reconciler.reconcile()
    assert loader.calls == calls


def test_a_version_that_is_tried_again_at_every_look_stays_refused_meanwhile(repository: Path) -> None:
    def fail(folder: ModelFolder, version: int) -> LoadedModel:
        raise FilesUnreadable("the disk is away")

    seen: list[set[State]] = []
    registry = Registry(repository, on_change=lambda: seen.append({status.state for status in registry.index()}))
    reconciler = Reconciler(repository, registry, fail)
    reconciler.reconcile()
    seen.clear()
    reconciler.reconcile()
    assert seen == [{State.UNAVAILABLE}], "a scrape in between would see the refusal end"


def test_names_and_reasons_that_are_no_utf8_can_be_sent(tmp_path: Path, loader: RecordingLoader) -> None:
    repository = tmp_path / os.fsdecode(b"d\xe9p\xf4t")
    add_version(repository, os.fsdecode(b"\xe9t\xe9"), doubling_model())
    (repository / "link").symlink_to(repository / "nothing")
    registry = Registry(repository)
    Reconciler(repository, registry, loader).reconcile()
    assert [status.name for status in registry.index()] == [r"\xe9t\xe9", "link"]
    for status in registry.index():
        (status.name + status.reason).encode()
    registry.unready_reason().encode()
    with pytest.raises(NotReady, match="cannot be a model's name"):
        registry.get(r"\xe9t\xe9")


def test_a_fault_in_one_model_does_not_stop_the_others(
    repository: Path, loader: RecordingLoader, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_version(repository, "another", doubling_model())
    monkeypatch.setattr(
        "service.models.repository.selection.read_config",
        lambda folder: 1 / 0 if folder.name == "another" else read_config(folder),
    )
    registry = Registry(repository)
    Reconciler(repository, registry, loader).reconcile()
    assert states(registry) == [("another", 0, State.UNAVAILABLE), ("double", 2, State.READY)]
    assert "ZeroDivisionError" in registry.index()[0].reason


# --- what was loaded keeps serving ---


def test_if_every_version_that_a_new_policy_selects_is_refused_the_loaded_one_keeps_serving(
    repository: Path, loader: RecordingLoader
) -> None:
    registry = Registry(repository)
    reconciler = Reconciler(repository, registry, loader)
    reconciler.reconcile()
    before = registry.get("double")
    (repository / "double" / "config.pbtxt").write_text("version_policy { specific { versions: [ 9 ] } }")
    reconciler.reconcile()
    assert registry.get("double") is before and registry.unready_reason() == ""
    assert states(registry) == [("double", 2, State.READY), ("double", 9, State.UNAVAILABLE)]


@pytest.mark.parametrize("policy", ["latest { num_versions: 1 }", "specific { versions: [ 2 ] }"])
def test_a_version_that_is_deleted_does_not_keep_serving(
    repository: Path, loader: RecordingLoader, policy: str
) -> None:
    (repository / "double" / "config.pbtxt").write_text(f"version_policy {{ {policy} }}")
    write_invalid_graph(repository, 1)
    registry = Registry(repository)
    reconciler = Reconciler(repository, registry, loader)
    reconciler.reconcile()
    shutil.rmtree(repository / "double" / "2")
    reconciler.reconcile()
    assert registry.models() == [] and "no model answers: double" in registry.unready_reason()
