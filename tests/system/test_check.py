"""`python -m service check MODEL_DIR`, as a user runs it."""

import json
import subprocess
from pathlib import Path

import onnx.backend.test
import pytest

from tests.support.graphs import centred_model, weighted_model
from tests.support.models import add_version, copy_repository, doubling_model
from tests.support.processes import run_command


def check(folder: Path, *flags: str) -> "subprocess.CompletedProcess[str]":
    return run_command("service", "check", str(folder), *flags)


def test_a_valid_model_is_described_verified_and_timed(published: Path) -> None:
    result = check(published / "mnist-simplecnn")
    assert result.returncode == 0, result.stderr
    out = result.stdout
    assert "model      mnist-simplecnn version 1" in out
    assert "manifest   matches the file" in out
    assert "fit        drawing (version 1, share 0.714)" in out
    assert "pictures   4 golden pictures, decoded and fitted here, get their answers" in out
    assert "input      images UINT8 [-1, 28, 28, 1]" in out
    assert "output     probabilities FP32 [-1, 10], 10 labels" in out
    assert "golden     answers hold in batches of 1, 2, 4, 8, 16, 32, 64" in out
    timed = [line.split()[0] for line in out.split("rows a second")[1].split("config.pbtxt")[0].splitlines() if line]
    assert timed == ["1", "2", "4", "8", "16", "32", "64"]
    assert "max_batch_size: 64" in out and out.endswith("mnist-simplecnn version 1 would be served\n")


def test_a_model_without_config_and_manifest_shows_what_was_derived(tmp_path: Path) -> None:
    add_version(tmp_path, "double", doubling_model(), version=3)
    out = check(tmp_path / "double").stdout
    assert "double version 3" in out and "none: it would be served unverified" in out
    assert "fit        none recorded" in out and "golden pictures" not in out
    assert "up to 4 rows" in out and "max_batch_size: 4" in out and "golden     none" in out


def test_a_graph_that_cannot_run_zeros_is_not_timed_but_would_be_served(tmp_path: Path) -> None:
    model = Path(onnx.backend.test.__file__).parent / "data/simple/test_expand_shape_model1/model.onnx"
    add_version(tmp_path, "expand", model.read_bytes())
    result = check(tmp_path / "expand")
    assert result.returncode == 0 and "times      none: the graph cannot run on inputs of shape" in result.stdout
    assert "model not warmed up" in result.stderr and "Traceback" not in result.stderr


def test_what_an_operator_does_not_get_is_a_warning(tmp_path: Path) -> None:
    config = "max_batch_size: 8 dynamic_batching { } response_cache { enable: true }"
    add_version(tmp_path, "frames", centred_model(), config=config)
    result = check(tmp_path / "frames")
    assert result.returncode == 0, result.stderr
    assert "warning    config.pbtxt sets response_cache, which this service ignores" in result.stdout
    assert "warning    not batched, every request runs alone: output 'y' of a row differs" in result.stdout
    assert "batches    none: every request is computed alone\n" in result.stdout


def test_a_manifest_can_be_required(published: Path, tmp_path: Path) -> None:
    assert check(published / "mnist-simplecnn", "--require-manifest").returncode == 0
    add_version(tmp_path, "double", doubling_model())
    result = check(tmp_path / "double", "--require-manifest")
    assert result.returncode == 1 and "has no manifest.json, which --require-manifest asks for" in result.stderr


def test_a_model_folder_that_is_a_link_is_checked_as_the_service_serves_it(tmp_path: Path) -> None:
    """Its weights may lie in the repository that holds the link."""
    repository, release = tmp_path / "models", tmp_path / "releases" / "m-2026" / "1"
    release.mkdir(parents=True)
    (repository / ".blobs").mkdir(parents=True)
    model, weights = weighted_model()
    (release / "model.onnx").write_bytes(model)
    (repository / ".blobs" / "w").write_bytes(weights)
    (release / "model.onnx_data").symlink_to(repository / ".blobs" / "w")
    (repository / "m").symlink_to(release.parent)
    result = check(repository / "m")
    assert result.returncode == 0 and "m version 1 would be served" in result.stdout, result.stderr


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            'max_batch_size: 8 input { name: "x" data_type: TYPE_FP32 dims: [ 5 ] }',
            "config.pbtxt says dims [5], the graph has [4]",
        ),
        ("max_batch_size: eight", "config.pbtxt cannot be read"),
    ],
)
def test_an_invalid_configuration_is_one_line_and_status_1(tmp_path: Path, config: str, message: str) -> None:
    add_version(tmp_path, "double", doubling_model(), config=config)
    result = check(tmp_path / "double")
    assert result.returncode == 1 and len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith("error: ") and message in result.stderr


def test_golden_answers_that_do_not_hold_are_reported_with_status_1(published: Path, tmp_path: Path) -> None:
    repository = copy_repository(published, tmp_path / "models")
    manifest = repository / "mnist-simplecnn" / "1" / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"golden": {"tolerance": -1}}))
    result = check(repository / "mnist-simplecnn")
    assert result.returncode == 1 and "golden mismatch at batch size 1" in result.stderr


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ((), "holds no version"),
        (("--model-version", "7"), "has no version 7"),
        (("--model-version", "0"), "has no version 0"),
        (("--device", "cuda"), "--device cuda"),
    ],
)
def test_a_missing_version_or_device_is_named(tmp_path: Path, flags: tuple[str, ...], message: str) -> None:
    result = check(tmp_path, *flags)
    assert result.returncode == 1 and message in result.stderr and "Traceback" not in result.stderr


def test_a_missing_folder_is_named_without_a_traceback(tmp_path: Path) -> None:
    result = check(tmp_path / "nowhere")
    assert result.returncode == 1 and "nowhere" in result.stderr and "Traceback" not in result.stderr


def test_invalid_usage_is_status_2_and_help_shows_an_example() -> None:
    assert run_command("service", "check").returncode == 2
    for flags in (("--device", "gpu7"), ("--intra-op-threads", "0")):
        result = run_command("service", "check", "anywhere", *flags)
        assert result.returncode == 2 and "Traceback" not in result.stderr
    text = run_command("service", "check", "--help").stdout
    assert "MODEL_DIR" in text and "models/mnist-simplecnn" in text
    assert "python -m service check MODEL_DIR" in run_command("service", "--help").stdout
