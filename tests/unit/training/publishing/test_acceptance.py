"""The service takes what is published: every refusal is the service's own, and comes before anything changes."""

import os
import re
import shutil
from pathlib import Path

import pytest

from service.core.load_errors import LoadError
from service.models.loader import load
from service.models.repository.scan import read_model_folder
from service.models.repository.selection import select
from service.models.repository.version_files import ModelFolder
from tests.support.loading import CPU, load_only
from tests.support.models import add_version, doubling_model
from tests.support.training import artifact, toy_graph
from training.errors import NotAccepted
from training.publishing import acceptance, publish
from training.publishing.publish import Artifact, check_publishable

STABLE = 'parameters { key: "stable" value { string_value: "1" } }'
OURS = artifact()
CONFIG = publish.model_config(OURS.name, OURS.label_names, OURS.image_shape)


def content(folder: Path) -> dict[str, bytes | None]:
    """Every entry below the folder, hidden ones included, with the content of files."""
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def refusals(repository: Path, wanted: Artifact) -> list[str]:
    """The messages before training and at publication, neither of which may change anything in the repository."""
    before, messages = content(repository), []
    with pytest.raises(NotAccepted) as early:
        check_publishable(repository / wanted.name, wanted.label_names, wanted.image_shape)
    with pytest.raises(NotAccepted) as late:
        publish.publish(repository, wanted)
    messages = [str(early.value), str(late.value)]
    assert content(repository) == before
    return messages


def load_selected(folder: ModelFolder, version: int) -> None:
    """What the service does when it is told of the version."""
    select(folder)
    load(folder, version, CPU).batcher.close()


# --- the service's own rule ---


def test_a_third_class_under_the_same_name_is_refused_as_the_service_would(tmp_path: Path) -> None:
    publish.publish(tmp_path, artifact(label_names=("a", "b")))
    early, late = refusals(tmp_path, artifact(label_names=("a", "b", "c")))
    assert early == late
    assert "output 'probabilities': config.pbtxt says dims [2], the graph has [3]" in early
    assert "nothing was published. Publish under another --name, correct config.pbtxt, or delete" in early
    assert load_only(tmp_path).spec.outputs[0].labels == ("a", "b")


def test_images_of_another_shape_under_the_same_name_are_refused(tmp_path: Path) -> None:
    publish.publish(tmp_path, artifact())
    early, late = refusals(tmp_path, artifact(image_shape=(6, 6, 1)))
    assert early == late and "config.pbtxt says dims [4, 4, 1], the graph has [6, 6, 1]" in early


@pytest.mark.parametrize(
    "config",
    [
        "sequence_batching { }",
        'backend: "python"',
        "max_batch_size: -1",
        'name: "other"',
        "max_batch_size: 2147483647",
        "no such field: 1",
        CONFIG.replace("TYPE_UINT8", "TYPE_FP32"),
        CONFIG.replace('"images"', '"pixels"'),
        CONFIG.replace("dims: [ 3 ]", "dims: [ 3, 1 ] reshape { shape: [ 3 ] }"),
        CONFIG + "instance_group { kind: KIND_MODEL }",
        CONFIG + "instance_group { count: 2147483647 }",
        CONFIG.replace("dynamic_batching { }", "dynamic_batching { preferred_batch_size: 65 }"),
        CONFIG.replace("dynamic_batching { }", "dynamic_batching { priority_levels: 2 }"),
        CONFIG + 'parameters { key: "strict" value { string_value: "yes" } }',
        CONFIG + 'parameters { key: "stable" value { string_value: "newest" } }',
        CONFIG + 'model_repository_agents { agents { name: "checksum" parameters { key: "MD5:x" value: "0" } } }',
        CONFIG + "version_policy { specific { versions: [ 1 ] } }",
        CONFIG + "version_policy { specific { } }",
        CONFIG.replace("max_batch_size: 64", "max_batch_size: 0"),
        "\xff",
    ],
)
def test_what_the_service_refuses_because_of_an_operators_config_is_not_published(tmp_path: Path, config: str) -> None:
    """The version is then put there all the same: the service refuses it, or does not select it."""
    publish.publish(tmp_path, artifact())
    (tmp_path / "toy" / "config.pbtxt").write_bytes(config.encode("latin-1"))
    _, message = refusals(tmp_path, artifact("second"))
    shutil.copytree(tmp_path / "toy" / "1", tmp_path / "toy" / "2")
    folder = read_model_folder(tmp_path / "toy")
    if "version_policy" in config:
        assert "version_policy in config.pbtxt selects the versions" in message and "version 2 comes next" in message
        return
    with pytest.raises(LoadError) as caught:
        load_selected(folder, 2)
    assert str(caught.value) in message


@pytest.mark.parametrize("kind", ["folder", "link to nothing"])
def test_a_config_that_cannot_be_read_is_refused_and_kept(tmp_path: Path, kind: str) -> None:
    publish.publish(tmp_path, artifact())
    config = tmp_path / "toy" / "config.pbtxt"
    config.unlink()
    config.mkdir() if kind == "folder" else config.symlink_to("nothing")
    early, late = refusals(tmp_path, artifact("second"))
    assert early == late and "config.pbtxt cannot be read" in early
    assert config.is_symlink() or config.is_dir()


@pytest.mark.parametrize(
    "config",
    [
        "",
        "max_batch_size: 3",
        CONFIG + "version_policy { all { } }",
        CONFIG + "version_policy { latest { num_versions: 2 } }",
        CONFIG + "version_policy { specific { versions: [ 1, 2 ] } }",
        CONFIG + STABLE,
        CONFIG + "instance_group { kind: KIND_GPU }",
        CONFIG + "model_warmup { name: 'x' }",
    ],
)
def test_what_the_service_takes_with_an_operators_config_is_published(tmp_path: Path, config: str) -> None:
    """An instance group may ask for devices that the service has and this machine lacks."""
    publish.publish(tmp_path, artifact())
    (tmp_path / "toy" / "config.pbtxt").write_text(config)
    check_publishable(tmp_path / "toy", OURS.label_names, OURS.image_shape)
    assert publish.publish(tmp_path, artifact("second")).name == "2"
    assert (tmp_path / "toy" / "config.pbtxt").read_text() == config
    if "KIND_GPU" not in config:
        assert load_only(tmp_path, 2).verified


def test_a_version_that_labels_keep_waiting_is_published_and_named_as_waiting(tmp_path: Path) -> None:
    """As before a canary: the operator pins the stable version, and names the new one once it is there."""
    first = publish.publish(tmp_path, artifact())
    assert acceptance.waits_for(first) == ""
    (tmp_path / "toy" / "config.pbtxt").write_text(CONFIG + STABLE)
    second = publish.publish(tmp_path, artifact("second"))
    assert acceptance.waits_for(second) == (
        "config.pbtxt names stable 1: the service loads version 2 once it is named there"
    )
    (tmp_path / "toy" / "config.pbtxt").write_text(
        CONFIG + STABLE + STABLE.replace("stable", "canary").replace("1", "2")
    )
    assert acceptance.waits_for(second) == ""


# --- older versions ---


@pytest.mark.parametrize(
    ("label_names", "says"),
    [(("a", "b", "d"), "its class 2 is 'c', that of this run 'd'"), (("b", "a", "c"), "its class 0 is 'a'")],
)
def test_other_names_or_another_order_of_classes_than_in_an_older_version_are_refused(
    tmp_path: Path, label_names: tuple[str, ...], says: str
) -> None:
    publish.publish(tmp_path, artifact())
    early, late = refusals(tmp_path, artifact(label_names=label_names))
    assert early == late and f"{tmp_path}/toy/1 has other classes: {says}" in early
    assert (tmp_path / "toy" / "labels.txt").read_text() == "a\nb\nc\n"


def test_the_model_of_another_project_is_left_alone(tmp_path: Path) -> None:
    add_version(tmp_path, "toy", doubling_model(), config='input { name: "x" data_type: TYPE_FP32 dims: [ -1, 4 ] }')
    early, late = refusals(tmp_path, artifact())
    assert early == late and "config.pbtxt has ['x'], the graph has ['images']" in early


def test_a_version_that_this_job_did_not_publish_has_unknown_classes(tmp_path: Path) -> None:
    add_version(tmp_path, "toy", toy_graph())
    early, late = refusals(tmp_path, artifact())
    assert early == late and "does not say in a manifest which classes it has" in early


def test_a_config_that_was_removed_is_not_replaced_by_one_that_an_older_version_contradicts(tmp_path: Path) -> None:
    publish.publish(tmp_path, artifact())
    (tmp_path / "toy" / "config.pbtxt").unlink()
    early, late = refusals(tmp_path, artifact(image_shape=(6, 6, 1)))
    assert early == late and "toy/1 would be refused with the new config.pbtxt" in early
    assert publish.publish(tmp_path, artifact("second")).name == "2", "of the same shape"
    assert (tmp_path / "toy" / "config.pbtxt").read_text() == CONFIG


# --- new names ---


def test_a_new_name_is_publishable_and_the_question_leaves_nothing(tmp_path: Path) -> None:
    check_publishable(tmp_path / "models" / "toy", OURS.label_names, OURS.image_shape)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("exists", [False, True])
def test_a_refused_first_version_leaves_neither_its_folder_nor_the_repository(tmp_path: Path, exists: bool) -> None:
    if exists:
        (tmp_path / "models").mkdir()
    wanted = artifact()
    wrong = Artifact(**{**vars(wanted), "model": toy_graph(classes=2)})
    with pytest.raises(NotAccepted, match=re.escape("config.pbtxt says dims [3], the graph has [2]")):
        publish.publish(tmp_path / "models", wrong)
    assert [os.fspath(path.name) for path in tmp_path.rglob("*")] == ["models"] * exists
