"""`--quantize` publishes an 8-bit version, or prints why it does not."""

import json
import re
from pathlib import Path

import pytest

from service.models.engine_settings import EngineOptions
from service.models.loader import load
from service.models.repository.scan import scan
from tests.support.processes import run_command


@pytest.mark.slow
def test_the_command_publishes_an_8_bit_model_beside_the_float32_one_or_prints_the_reason(tmp_path: Path) -> None:
    flags = ["--dataset", "mnist-sample", "--epochs", "2", "--device", "cpu", "--min-accuracy", "0"]
    result = run_command("training", *flags, "--quantize", "int8", "--repository", str(tmp_path))
    assert result.returncode == 0, result.stderr
    line = (
        r"^int8: accuracy loss -?[\d.]+ points on 4,238 training images, ([\d.]+) times as fast on this machine; (.*)$"
    )
    outcome = re.search(line, result.stdout, re.MULTILINE)
    assert outcome
    folders = {folder.name: folder for folder in scan(tmp_path).models}
    if outcome[2].startswith("not published: "):
        assert list(folders) == ["mnist-simplecnn"]
        return
    assert list(folders) == ["mnist-simplecnn", "mnist-simplecnn-int8"]
    manifest = json.loads((tmp_path / "mnist-simplecnn-int8" / "1" / "manifest.json").read_text())
    assert manifest["model"] == "mnist-simplecnn-int8" and manifest["quantization"]["speedup"] >= 1.1
    assert manifest["quantization"]["accuracy_loss"] <= 0.002
    assert len(manifest["metrics"]["confusion"]) == 10 and manifest["quantization"]["compared_on"]["images"] == 4238
    model = load(folders["mnist-simplecnn-int8"], 1, EngineOptions(["cpu"], 1))
    assert model.verified
    model.batcher.close()
