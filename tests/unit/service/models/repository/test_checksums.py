"""Triton's repository agent `checksum`, and agents that the service does not have."""

import hashlib
import os
from pathlib import Path

import pytest

from service.core.load_errors import ConfigurationError, FilesError, FilesUnreadable
from service.models.loader import LoadedModel
from tests.support.loading import load_only, refusal
from tests.support.models import BATCHING_CONFIG, add_version, doubling_model

MD5 = hashlib.md5(doubling_model(), usedforsecurity=False).hexdigest()
WRONG = "0" * 32


def config(name: str = "checksum", **checksums: str) -> str:
    parameters = "".join(f'parameters {{ key: "{key}" value: "{value}" }}' for key, value in checksums.items())
    return f'{BATCHING_CONFIG} model_repository_agents {{ agents [ {{ name: "{name}" {parameters} }} ] }}'


def load_with(repository: Path, text: str) -> LoadedModel:
    add_version(repository, "m", doubling_model(), config=text)
    return load_only(repository)


@pytest.mark.parametrize("md5", [MD5, MD5.upper()])
def test_a_checksum_that_holds_is_checked_and_the_model_is_served_without_a_warning(tmp_path: Path, md5: str) -> None:
    assert load_with(tmp_path, config(**{"MD5:1/model.onnx": md5})).warnings == ()


def test_a_checksum_that_does_not_hold_refuses_the_version_and_names_both_hashes(tmp_path: Path) -> None:
    with pytest.raises(FilesError, match=f"1/model.onnx has the MD5 checksum {MD5}, expected {WRONG}"):
        load_with(tmp_path, config(**{"MD5:1/model.onnx": WRONG}))


def test_every_file_of_the_model_may_have_a_checksum(tmp_path: Path) -> None:
    with pytest.raises(FilesError, match=r"config.pbtxt has the MD5 checksum"):
        load_with(tmp_path, config(**{"MD5:1/model.onnx": MD5, "MD5:config.pbtxt": WRONG}))


def test_a_checksum_of_another_version_is_left_to_that_version(tmp_path: Path) -> None:
    text = config(**{"MD5:1/model.onnx": MD5, "MD5:2/model.onnx": WRONG})
    assert load_with(tmp_path, text).spec.version == 1


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        (config(**{"MD5:1/weights.bin": MD5}), FilesError, "weights.bin is missing"),
        (config(**{"MD5:../m/1/model.onnx": MD5}), FilesError, "is outside"),
        (config(**{"MD5:/etc/passwd": MD5}), FilesError, "'/etc/passwd' is outside"),
        (config(**{"SHA256:1/model.onnx": MD5}), ConfigurationError, "expects MD5:FILE, got 'SHA256:1/model.onnx'"),
        (config(**{"1/model.onnx": MD5}), ConfigurationError, "expects MD5:FILE"),
        (config("decrypt"), ConfigurationError, "has the agent checksum, not 'decrypt'; remove it"),
    ],
)
def test_an_agent_that_cannot_do_its_work_refuses_the_version(
    tmp_path: Path, text: str, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        load_with(tmp_path, text)


@pytest.mark.parametrize("name", [".", "a\\000b", "pipe", "1"])
def test_a_name_of_what_is_no_file_refuses_the_version_and_blocks_nothing(tmp_path: Path, name: str) -> None:
    (tmp_path / "m").mkdir()
    os.mkfifo(tmp_path / "m" / "pipe")
    with pytest.raises(FilesUnreadable, match="cannot be read"):
        load_with(tmp_path, config(**{f"MD5:{name}": MD5}))


def test_a_changed_file_is_refused_when_it_is_loaded_again(tmp_path: Path) -> None:
    load_with(tmp_path, config(**{"MD5:1/model.onnx": MD5}))
    (tmp_path / "m" / "1" / "model.onnx").write_bytes(doubling_model(5))
    assert "has the MD5 checksum" in refusal(tmp_path)
