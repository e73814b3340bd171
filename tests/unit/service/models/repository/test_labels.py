"""Class names: the lines of a label file, their number, and what of a model's files concerns which version."""

from pathlib import Path
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from service.models.loader import LoadedModel, load
from service.models.reconciler import Reconciler
from service.models.registry import Registry
from service.models.repository.labels import label_lines
from service.models.repository.version_files import ModelFolder
from tests.support.loading import CPU, load_only, refusal
from tests.support.models import add_version, doubling_model, identity_model
from tests.support.publishing import publish_brightness

OUTPUT = 'max_batch_size: 8 output { name: "y" data_type: TYPE_FP32 dims: [ 4 ] label_filename: "labels.txt" }'
ALL_VERSIONS = "version_policy { all { } }\n"


@pytest.mark.parametrize(
    ("content", "labels"),
    [
        (b"", ()),
        (b"cat\ndog\n", ("cat", "dog")),
        (b"cat\ndog", ("cat", "dog")),
        (b"cat\n\ndog\n", ("cat", "", "dog")),
        (b"cat\r\ndog\r\n", ("cat", "dog")),
        (b"\xef\xbb\xbfcat\ndog\n", ("cat", "dog")),
        (b"a\x0bb\nc\x0cd\ne\x1cf\nk\rl\n", ("a\x0bb", "c\x0cd", "e\x1cf", "k\rl")),
        ("g\x85h\ni\u2028j\n".encode(), ("g\x85h", "i\u2028j")),
    ],
)  # fmt: skip
def test_a_label_file_is_cut_at_line_feeds_alone(content: bytes, labels: tuple[str, ...]) -> None:
    assert label_lines(content) == labels


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n\r\ufeff"))))
def test_names_without_line_feeds_are_read_as_they_were_written(names: list[str]) -> None:
    assert list(label_lines("".join(f"{name}\n" for name in names).encode())) == names


@pytest.mark.parametrize("labels", ["none\none\ntwo\n", "0\n1\n2\n3\n4\n", ""])
def test_a_label_file_of_another_length_than_the_classes_is_logged(tmp_path: Path, labels: str) -> None:
    add_version(tmp_path, "m", doubling_model(), config=OUTPUT)
    (tmp_path / "m" / "labels.txt").write_text(labels)
    with structlog.testing.capture_logs() as logged:
        model = load_only(tmp_path)
    assert model.spec.outputs[0].labels == tuple(labels.splitlines())
    (warning,) = [entry for entry in logged if entry["log_level"] == "warning"]
    assert warning["event"] == "label count mismatch"
    assert (warning["output"], warning["labels"], warning["classes"]) == ("y", len(labels.splitlines()), 4)


@pytest.mark.parametrize(
    ("shape", "config"),
    [
        (["N", 4], OUTPUT),
        (["N", 2, 2], OUTPUT.replace("[ 4 ]", "[ 2, 2 ]")),
        (["N", "classes"], OUTPUT.replace("[ 4 ]", "[ -1 ]")),
        (["N", 4], OUTPUT.replace("8", "0").replace("[ 4 ]", "[ -1, 4 ]")),
    ],
)
def test_as_many_labels_as_values_of_a_row_are_not_worth_a_log_line(
    tmp_path: Path, shape: list[Any], config: str
) -> None:
    add_version(tmp_path, "m", identity_model(1, shape), config=config)
    (tmp_path / "m" / "labels.txt").write_text("0\n1\n2\n3\n")
    with structlog.testing.capture_logs() as logged:
        assert load_only(tmp_path).spec.outputs[0].labels == tuple("0123")
    assert not [entry for entry in logged if entry["event"] == "label count mismatch"]


def test_a_byte_order_mark_in_the_configuration_is_passed_over(tmp_path: Path) -> None:
    add_version(tmp_path, "m", doubling_model())
    (tmp_path / "m" / "config.pbtxt").write_bytes(b"\xef\xbb\xbfmax_batch_size: 3\r\n")
    assert load_only(tmp_path).spec.max_batch_size == 3
    (tmp_path / "m" / "config.pbtxt").write_text("max_batch_size: 3\n", encoding="utf-16")
    assert "config.pbtxt cannot be read" in refusal(tmp_path)


class RecordingLoader:
    """The real loader, which records the versions that it loads."""

    def __init__(self) -> None:
        self.versions: list[int] = []

    def __call__(self, folder: ModelFolder, version: int) -> LoadedModel:
        self.versions.append(version)
        return load(folder, version, CPU)


def test_a_version_with_other_class_names_neither_renames_nor_reloads_an_older_one(tmp_path: Path) -> None:
    publish_brightness(tmp_path, ("dark", "light"))
    config = tmp_path / "brightness" / "config.pbtxt"
    config.write_text(config.read_text() + ALL_VERSIONS)
    registry, loader = Registry(tmp_path), RecordingLoader()
    reconciler = Reconciler(tmp_path, registry, loader)
    reconciler.reconcile()
    first = registry.get("brightness", "1")
    publish_brightness(tmp_path, ("cat", "dog"))
    reconciler.reconcile()
    assert registry.get("brightness", "1") is first and loader.versions == [1, 2]
    labels = [registry.get("brightness", version).spec.outputs[0].labels for version in ("1", "2")]
    assert labels == [("dark", "light"), ("cat", "dog")]
    restarted = Registry(tmp_path)
    Reconciler(tmp_path, restarted, loader).reconcile()
    labels = [restarted.get("brightness", version).spec.outputs[0].labels for version in ("1", "2")]
    assert labels == [("dark", "light"), ("cat", "dog")]
    for model in (*registry.models(), *restarted.models()):
        model.batcher.close()


def test_a_label_that_no_response_can_carry_is_refused(tmp_path: Path) -> None:
    """JSON may hold half of a surrogate pair, which is no UTF-8: every scrape of the metrics would fail."""
    manifest = publish_brightness(tmp_path) / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"dark"', '"\\ud800"'))
    assert "manifest.json cannot be read: labels: " in refusal(tmp_path)
