"""The report is one file that shows the evaluation and that a browser can display."""

import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.processes import clean_environment
from training.report.page import SECTIONS

CHROMIUM = shutil.which("chromium")


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


@pytest.fixture
def page(trained: tuple[Path, Path]) -> Path:
    """The report of a run of four epochs."""
    return trained[1] / "report.html"


def test_the_report_is_one_file_without_scripts_or_outside_links(page: Path) -> None:
    parsed = Page(page.read_text())
    assert parsed.links and all(link.startswith(("data:image/png;base64,", "#")) for link in parsed.links)
    assert "<script" not in page.read_text() and "@import" not in page.read_text()
    assert page.stat().st_size < 500_000


def test_the_report_shows_images_curves_errors_layers_and_the_command_to_repeat_it(page: Path) -> None:
    text, parsed = page.read_text(), Page(page.read_text())
    assert parsed.headings == [section.title for section in SECTIONS if section.title]
    assert "could not be drawn" not in text
    errors = int(re.search(r"(\d+) of 1,000 test images are misclassified", text)[1])  # type: ignore[index]
    assert len(parsed.figures) == 40 + 2 * 9 + 20 + min(20, errors) + 1
    assert parsed.figures.count("wrong") >= min(20, errors)
    command = "python -m training --model mnist-simplecnn --dataset mnist-sample --epochs 4"
    assert command in text and "Conv 32→64, 3×3" in text and "MaxPool" in text
    assert text.count("<svg") == 5 and "#010203" not in text
    assert "mnist-simplecnn, version 1 · run " in text


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
