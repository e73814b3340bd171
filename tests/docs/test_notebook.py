"""The notebook is valid, its stored outputs are small and free of errors, and its cells run in their order."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.support.paths import ROOT
from tests.support.processes import clean_environment

NOTEBOOK = ROOT / "training" / "notebook.ipynb"
MAX_BYTES = 100_000


def cells(kind: str) -> list[dict[str, Any]]:
    """The notebook's cells of one kind, in their order."""
    return [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == kind]


def test_the_notebook_is_of_format_4_5() -> None:
    # Source: https://nbformat.readthedocs.io/en/latest/format_description.html
    notebook = json.loads(NOTEBOOK.read_text())
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert notebook["metadata"]["kernelspec"].keys() >= {"name", "display_name"}
    code, markdown = cells("code"), cells("markdown")
    assert len(code) + len(markdown) == len(notebook["cells"])
    assert len({cell["id"] for cell in code + markdown}) == len(notebook["cells"])
    assert all(cell.keys() == {"cell_type", "id", "metadata", "source"} for cell in markdown)
    expected = {"cell_type", "execution_count", "id", "metadata", "outputs", "source"}
    assert all(cell.keys() == expected for cell in code)


def test_the_stored_outputs_are_those_of_one_run_and_small() -> None:
    assert [cell["execution_count"] for cell in cells("code")] == list(range(1, len(cells("code")) + 1))
    outputs = [output for cell in cells("code") for output in cell["outputs"]]
    assert {output["output_type"] for output in outputs} == {"stream", "display_data"}
    assert all(output.get("name", "stdout") == "stdout" for output in outputs)
    assert "published FOLDER/models/mnist-simplecnn/1" in NOTEBOOK.read_text()
    assert str(Path.home()) not in NOTEBOOK.read_text() and NOTEBOOK.stat().st_size < MAX_BYTES


def test_the_cells_of_the_notebook_run_in_their_order(tmp_path: Path) -> None:
    script = "\n".join("".join(cell["source"]) for cell in cells("code"))
    environment = clean_environment() | {
        "EPOCHS": "1", "MPLBACKEND": "agg", "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path),
    }  # fmt: skip
    command = [sys.executable, "-W", "ignore:FigureCanvasAgg is non-interactive", "-c", script]
    result = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=280, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "epoch 1/1" in result.stdout and "test images are right" in result.stdout and not result.stderr
    assert len(list(tmp_path.glob("tmp*/models/mnist-simplecnn/1/model.onnx"))) == 1
