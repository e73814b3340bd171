"""A version whose golden pictures do not get their answers here is refused, with the file's name."""

import io
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from service.pictures.fit import DRAWING, RESIZE, Fit
from tests.support.loading import load_only, refusal
from tests.support.paths import ROOT
from tests.support.publishing import brightness_model
from training.errors import NotAccepted
from training.publishing.publish import Artifact, publish

RESIZED = Fit(RESIZE)


def page(level: int) -> bytes:
    """A PNG of one grey level, larger than the model's input."""
    file = io.BytesIO()
    Image.new("L", (9, 7), level).save(file, "PNG")
    return file.getvalue()


def publish_with_pictures(
    repository: Path,
    *,
    fit: Fit | None = RESIZED,
    answers: Any = ((0.2, 0.8), (0.8, 0.2)),
    pictures: int = 2,
    arrays: dict[str, NDArray[Any]] | None = None,
) -> Path:
    """Publish the toy classifier of bright images with a light and a dark picture; the version's folder."""
    golden: dict[str, NDArray[Any]] = {
        "images": np.array([0, 255], np.uint8)[:, None, None, None].repeat(4, 1).repeat(4, 2),
        "probabilities": np.array([[1, 0], [0, 1]], np.float32),
        "picture:light.png": np.frombuffer(page(204), np.uint8),
        "picture:pitch.png": np.frombuffer(page(51), np.uint8),
        "picture_answers": np.array(answers, np.float32),
    }
    manifest: dict[str, Any] = {"golden": {"tolerance": 1e-4, "pictures": pictures, "picture_tolerance": 0.03}}
    manifest |= {"fit": fit.record()} if fit else {}
    artifact = Artifact("m", brightness_model(4), manifest, golden | (arrays or {}), ("dark", "light"), (4, 4, 1))
    return publish(repository, artifact)


def test_golden_pictures_that_get_their_answers_are_counted(tmp_path: Path) -> None:
    publish_with_pictures(tmp_path, answers=((0.18, 0.82), (0.8, 0.2)))
    model = load_only(tmp_path)
    assert model.verified and model.pictures_verified == 2 and model.fit == RESIZED


@pytest.mark.parametrize(
    ("answers", "says"),
    [
        (((0.2, 0.8), (0.2, 0.8)), r"pitch.png, .*: expected 'light' with 0.800, got 'dark' with 0.800"),
        (
            ((0.25, 0.75), (0.8, 0.2)),
            r"light.png, .*: expected 'light' with 0.750, got 'light' with 0.800; .* 5.00e-02",
        ),
        (((0.2, np.nan), (0.8, 0.2)), r"light.png, .*: expected 'light' with nan, got 'light' with 0.800"),
        (((0.2, 0.8, 0), (0.8, 0.2, 0)), r"light.png: expected \[3\] values, got \[2\]"),
    ],
    ids=["label", "probability", "NaN", "classes"],
)
def test_a_golden_picture_with_another_answer_is_refused_by_name(tmp_path: Path, answers: Any, says: str) -> None:
    publish_with_pictures(tmp_path, answers=answers)
    assert re.search(f"golden picture {says}", refusal(tmp_path))


def test_another_fit_than_the_one_that_made_the_answers_is_refused(tmp_path: Path) -> None:
    publish_with_pictures(tmp_path, fit=Fit(DRAWING))
    assert "golden picture light.png" in refusal(tmp_path)


def test_a_golden_picture_that_cannot_be_decoded_is_refused_by_name(tmp_path: Path) -> None:
    publish_with_pictures(tmp_path, arrays={"picture:light.png": np.frombuffer(page(204)[:40], np.uint8)})
    assert "golden picture light.png cannot be used with the fit resize" in refusal(tmp_path)


def test_golden_pictures_without_a_fit_are_refused(tmp_path: Path) -> None:
    publish_with_pictures(tmp_path, fit=None)
    assert "has golden pictures, but the version does not record a fit" in refusal(tmp_path)


@pytest.mark.parametrize("change", [{"pictures": 3}, {"answers": ((0.2, 0.8),)}, {"answers": 1.0}], ids=str)
def test_another_number_of_golden_pictures_than_the_manifest_says_is_refused(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    """The job, which asks the service's rule, does not even publish it."""
    with pytest.raises(NotAccepted, match=r"golden\.npz has 2 golden pictures and answers of type float32 and shape"):
        publish_with_pictures(tmp_path, **change)


@pytest.mark.parametrize("kind", ["U9", "c8", "M8[s]"])
def test_golden_answers_that_are_no_numbers_with_a_fraction_are_refused(tmp_path: Path, kind: str) -> None:
    with pytest.raises(NotAccepted, match=re.escape(f"answers of type {np.dtype(kind)}")):
        publish_with_pictures(tmp_path, arrays={"picture_answers": np.ones((2, 2), np.int64).astype(kind)})


def test_a_manifest_that_says_nothing_of_pictures_is_loaded_without_pillow(tmp_path: Path) -> None:
    """As of the job before schema 4."""
    folder = publish_with_pictures(tmp_path, pictures=0, fit=None)
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"schema": 3, "golden": {"tolerance": 1e-4}}))
    code = (
        "import sys; from tests.support.loading import load_only; from pathlib import Path;"
        f"print(load_only(Path({str(tmp_path)!r})).pictures_verified, 'PIL' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0", "False"]


def test_an_input_that_config_pbtxt_reshapes_takes_no_pictures_and_is_served(tmp_path: Path) -> None:
    folder = publish_with_pictures(tmp_path)
    config = (folder.parent / "config.pbtxt").read_text()
    reshaped = config.replace("dims: [ 4, 4, 1 ]", "dims: [ 16 ] reshape { shape: [ 4, 4, 1 ] }")
    (folder.parent / "config.pbtxt").write_text(reshaped)
    assert load_only(tmp_path).pictures_verified == 0
