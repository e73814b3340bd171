"""The evaluation's figures are correct, and the report shows them in one file that a browser can display."""

import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from tests.support.processes import clean_environment, run_command
from training import evaluate
from training.dataset import Split
from training.evaluate import CALIBRATION_BINS, CalibrationBin, Evaluation

CHROMIUM = shutil.which("chromium")


class FixedClassifier(nn.Module):
    """Returns given probabilities: an image's first pixel is the index of its row."""

    def __init__(self, rows: list[list[float]]) -> None:
        super().__init__()
        self.rows = torch.tensor(rows)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.rows[images[:, 0, 0, 0].long().clamp_max(len(self.rows) - 1)]


@pytest.fixture
def evaluation() -> Evaluation:
    """An evaluation of five images of three classes; the last class is never predicted."""
    images = torch.zeros(5, 8, 8, 1, dtype=torch.uint8)
    images[:, 0, 0, 0] = torch.arange(5)
    rows = [[0.9, 0.1, 0.0], [0.6, 0.4, 0.0], [0.7, 0.3, 0.0], [0.2, 0.8, 0.0], [0.0, 1.0, 0.0]]
    return evaluate.evaluate(FixedClassifier(rows), Split(images, torch.tensor([0, 0, 1, 1, 2])))


def test_accuracy_precision_recall_and_confusion_matrix_are_correct(evaluation: Evaluation) -> None:
    assert evaluation.confusion.tolist() == [[2, 0, 0], [1, 1, 0], [0, 1, 0]]
    assert evaluation.accuracy == pytest.approx(0.6)
    assert evaluation.precision[:2] == pytest.approx((2 / 3, 1 / 2)) and np.isnan(evaluation.precision[2])
    assert evaluation.recall == pytest.approx((1, 1 / 2, 0))


def test_the_loss_is_the_mean_negative_log_likelihood_of_the_true_class(evaluation: Evaluation) -> None:
    expected = -np.log([0.9, 0.6, 0.3, 0.8, 1e-12]).mean()
    assert evaluation.loss == pytest.approx(expected, rel=1e-5)


def test_the_calibration_error_is_the_mean_gap_between_confidence_and_accuracy(evaluation: Evaluation) -> None:
    gaps = [0.9 - 1, 0.6 - 1, 0.7 - 0, 0.8 - 1, 1.0 - 0]  # each image falls into a bin of its own
    assert evaluation.calibration_error == pytest.approx(sum(map(abs, gaps)) / 5, rel=1e-5)
    assert len(evaluation.calibration_bins) == 5
    bins = (CalibrationBin(10, 0.8, 0.8), CalibrationBin(30, 0.9, 0.7))
    two_bins = Evaluation(**{**vars(evaluation), "calibration_bins": bins})
    assert two_bins.calibration_error == pytest.approx(30 / 40 * 0.2)
    assert CALIBRATION_BINS == 15


def test_perturbations_have_the_named_size_in_both_directions() -> None:
    images = torch.zeros(2, 9, 9, 1, dtype=torch.uint8)
    images[:, 4, 4] = 200
    perturbed = dict(evaluate._perturbed(images))
    positions = [tuple((image[:, :, 0] == 200).nonzero()[0].tolist()) for image in perturbed["shifted 2 pixels"]]
    assert sorted(positions) == [(2, 2), (6, 6)]
    assert list(perturbed) == [
        "shifted 1 pixel", "shifted 2 pixels", "rotated 10°", "rotated 20°", "noise 5%", "noise 10%", "noise 20%",
    ]  # fmt: skip
    flat = torch.full((50, 20, 20, 1), 128, dtype=torch.uint8)
    noisy = dict(evaluate._perturbed(flat))["noise 10%"].float()
    assert noisy.std().item() == pytest.approx(25.5, rel=0.02) and noisy.mean().item() == pytest.approx(128, abs=0.5)


# --- the page ---


class Page(HTMLParser):
    """The links of a page, its headings, and the classes of its figures."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.headings: list[str] = []
        self.figures: list[str] = []
        self._in_heading = False
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = dict(attributes)
        self.links += [value for name in ("src", "href", "xlink:href") if (value := values.get(name))]
        self._in_heading = tag == "h2"
        if tag == "figure":
            self.figures.append(values.get("class") or "")

    def handle_endtag(self, tag: str) -> None:
        self._in_heading = False

    def handle_data(self, data: str) -> None:
        if self._in_heading:
            self.headings.append(data)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a run of two epochs."""
    folder = tmp_path_factory.mktemp("report")
    flags = ["--dataset", "mnist-sample", "--epochs", "2", "--device", "cpu", "--min-accuracy", "0"]
    flags += ["--pooling", "avg", "--repository", str(folder / "models"), "--runs-dir", str(folder)]
    result = run_command("training", *flags)
    assert result.returncode == 0, result.stderr
    (report,) = re.findall(r"^report (.*)$", result.stdout, re.MULTILINE)
    return Path(report)


def test_the_report_is_one_file_without_scripts_or_outside_links(page: Path) -> None:
    parsed = Page(page.read_text())
    assert parsed.links and all(link.startswith(("data:image/png;base64,", "#")) for link in parsed.links)
    assert "<script" not in page.read_text() and "@import" not in page.read_text()
    assert page.stat().st_size < 500_000


def test_the_report_shows_images_curves_errors_layers_and_the_command_to_repeat_it(page: Path) -> None:
    text, parsed = page.read_text(), Page(page.read_text())
    assert parsed.headings == [
        "Training images", "Training curves", "Predictions for test images", "Most confident errors",
        "Confusion matrix", "Classes, calibration and robustness", "Filters of the first layer",
        "Feature maps of one image", "Layers", "Repeat this run",
    ]  # fmt: skip
    errors = int(re.search(r"(\d+) of 1,000 test images are misclassified", text)[1])  # type: ignore[index]
    assert len(parsed.figures) == 40 + 20 + min(20, errors) + 1
    assert parsed.figures.count("wrong") >= min(20, errors)
    command = "python -m training --model mnist-simplecnn --dataset mnist-sample --pooling avg --epochs 2"
    assert command in text and "Conv 32→64, 3×3, padding 1" in text and "AvgPool" in text
    assert text.count("<svg") == 2 and "#010203" not in text


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed: apt-get install chromium")
@pytest.mark.parametrize(("scheme", "dark"), [("light", False), ("dark", True)])
def test_a_browser_shows_the_report_in_the_readers_colour_scheme(
    page: Path, tmp_path: Path, scheme: str, dark: bool
) -> None:
    assert CHROMIUM is not None
    shot = tmp_path / "shot.png"
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    flags += ["--disable-component-update", "--disable-sync", "--disable-quic", f"--user-data-dir={tmp_path / 'user'}"]
    flags += ["--hide-scrollbars", "--window-size=1100,3000", f"--screenshot={shot}"]
    if dark:
        flags.append("--blink-settings=preferredColorScheme=0")
    subprocess.run(
        [CHROMIUM, *flags, page.as_uri()], check=True, capture_output=True, timeout=120, env=clean_environment()
    )
    pixels = np.asarray(Image.open(shot).convert("L"), np.float32)
    corner, whole = pixels[:10, :10].mean(), pixels.mean()
    assert (corner < 60 and whole < 120) if dark else (corner > 240 and whole > 180)
    assert pixels.std() > 20, "an empty page"
