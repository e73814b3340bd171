"""Golden answers prove that rows are independent only if they are answers to different rows."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from tests.support.graphs import centred_model
from tests.support.loading import load_only
from tests.support.models import BATCHING_CONFIG, add_version, doubling_model


@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize(("model", "width", "factor"), [(centred_model(), 3, 0), (doubling_model(), 4, 2)])
def test_equal_golden_samples_do_not_hide_that_rows_depend_on_each_other(
    tmp_path: Path, model: bytes, width: int, factor: int, samples: int
) -> None:
    """Rows less their mean are 0 in every batch of equal rows."""
    folder = add_version(tmp_path, "m", model, config=BATCHING_CONFIG)
    manifest = {"model": "m", "sha256": hashlib.sha256(model).hexdigest(), "golden": {"tolerance": 1e-4}}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    x = np.ones((samples, width), np.float32)
    np.savez(folder / "golden.npz", x=x, y=factor * x)
    loaded = load_only(tmp_path)
    assert loaded.verified and loaded.batch_max_abs_diff == 0
    assert bool(loaded.warnings) == (factor == 0), "not batched"
