"""Files of a version that are not what they should be are refused with one line, never with a traceback."""

import hashlib
import io
import json
from pathlib import Path

import numpy as np
import pytest

from service.core.load_errors import MAX_LOAD_TEXT
from tests.support.graphs import weighted_model
from tests.support.loading import refusal
from tests.support.models import add_version, doubling_model


def npy() -> bytes:
    """One array, not an archive of arrays."""
    content = io.BytesIO()
    np.save(content, np.zeros((2, 4), np.float32))
    return content.getvalue()


def npz(**arrays: object) -> bytes:
    content = io.BytesIO()
    np.savez(content, allow_pickle=False, **arrays)  # type: ignore[arg-type] # arrays
    return content.getvalue()


@pytest.mark.parametrize(
    ("golden", "message"),
    [
        (npy(), "golden.npz cannot be read: File is not a zip file"),
        (npz(x=np.float32(1), y=np.float32(2)), "golden.npz holds one value of 'x' instead of samples"),
    ],
)
def test_golden_answers_of_another_form_are_refused_by_name(tmp_path: Path, golden: bytes, message: str) -> None:
    folder = add_version(tmp_path, "m", doubling_model())
    manifest = {"model": "m", "sha256": hashlib.sha256(doubling_model()).hexdigest(), "golden": {"tolerance": 1e-4}}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / "golden.npz").write_bytes(golden)
    assert message in refusal(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [("[" * 100_000, "maximum recursion depth"), ('{"sha256": ""}', "model: Field required; golden: Field required")],
)
def test_an_invalid_manifest_is_refused_in_one_line(tmp_path: Path, content: str, message: str) -> None:
    folder = add_version(tmp_path, "m", doubling_model())
    (folder / "manifest.json").write_text(content)
    reason = refusal(tmp_path)
    assert message in reason and "\n" not in reason


@pytest.mark.parametrize("config", ["<html>" + "x" * 100_000, f'name: "{"x" * 100_000}"', 'name: "a\\nb"'])
def test_the_reason_of_a_refusal_is_one_bounded_line(tmp_path: Path, config: str) -> None:
    add_version(tmp_path, "m", doubling_model(), config=config)
    reason = refusal(tmp_path)
    assert len(reason.encode()) <= MAX_LOAD_TEXT and "\n" not in reason


def test_a_weight_file_whose_name_holds_a_nul_is_refused(tmp_path: Path) -> None:
    model, _ = weighted_model("weights\0")
    add_version(tmp_path, "m", model)
    assert "weights must lie beside the graph" in refusal(tmp_path)
