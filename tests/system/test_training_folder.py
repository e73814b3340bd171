"""The command on a folder of pictures with the user's own splits, one file of which is broken."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.processes import run_command


@pytest.mark.slow
def test_a_folder_with_three_splits_is_trained_on_without_the_files_that_cannot_be_read(tmp_path: Path) -> None:
    random, folder = np.random.default_rng(0), tmp_path / "sky"
    for split, count in (("Train", 12), ("valid", 3), ("TEST", 4)):
        for label, top in (("day", 255), ("night", 60)):
            (folder / split / label).mkdir(parents=True)
            for number in range(count):
                pixels = random.integers(top - 50, top, (40, 40, 3)).astype(np.uint8)
                Image.fromarray(pixels).save(folder / split / label / f"{number}.png")
    (folder / "Train" / "day" / "3.png").write_bytes(b"<html>404</html>")
    flags = ["--dataset", f"folder:{folder}", "--epochs", "1", "--min-accuracy", "0", "--device", "cpu"]
    flags += ["--repository", str(tmp_path / "models"), "--data-dir", str(tmp_path / "data")]
    refused = run_command("training", *flags)
    assert refused.returncode == 1
    assert "1 of 38 files below" in refused.stderr and "Train/day/3.png: expected a PNG" in refused.stderr
    assert "--skip-unreadable" in refused.stderr and not (tmp_path / "models").exists()
    result = run_command("training", *flags, "--skip-unreadable")
    assert result.returncode == 0, result.stderr
    assert "23 training, 6 validation and 8 test images" in result.stdout
    manifest = json.loads((tmp_path / "models" / "mnist-simplecnn-sky" / "1" / "manifest.json").read_text())
    assert manifest["labels"] == ["day", "night"] and manifest["dataset"]["excluded"] == {"unreadable": 1}
