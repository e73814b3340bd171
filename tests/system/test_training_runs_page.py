"""A browser draws the curves of all runs, and hides those of a run that is unchecked."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.processes import clean_environment
from tests.support.runs import facts, write_run
from training.report.runs_page import write_index

CHROMIUM = shutil.which("chromium")


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed: apt-get install chromium")
def test_a_browser_draws_each_curve_and_hides_an_unchecked_run(tmp_path: Path) -> None:
    assert CHROMIUM is not None
    for name in ("1-first", "2-second"):
        write_run(tmp_path, name, facts=facts())
    page = write_index(tmp_path)
    # As a reader would: uncheck a run after the page was drawn.
    uncheck = "<script>document.querySelector('input[data-run=\"2-second\"]').click()</script>"
    (tmp_path / "unchecked.html").write_text(page.read_text().replace("</body>", f"{uncheck}</body>"))
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    drawn = {}
    for path in (page, tmp_path / "unchecked.html"):
        command = [CHROMIUM, *flags, f"--user-data-dir={tmp_path / 'user'}", "--dump-dom", path.as_uri()]
        result = subprocess.run(
            command, check=True, capture_output=True, text=True, timeout=120, env=clean_environment()
        )
        drawn[path] = re.findall(r"<path [^>]*><title>(.*?)</title>", result.stdout)
        assert len(re.findall(r"<svg [^>]*aria-label=", result.stdout)) == 3, "validation accuracy, accuracy, loss"
        assert "NaN" not in result.stdout
    assert drawn[page] == ["2-second", "1-first"] * 3
    assert drawn[tmp_path / "unchecked.html"] == ["1-first"] * 3
