"""The page of all runs is one bounded file, whatever the runs are called."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.support.runs import facts, write_run
from training.report import runs_page
from training.report.comparison_page import Comparison, render_comparison
from training.report.runs_page import read_series, render_index, write_index
from training.runs.groups import Group
from training.runs.record import read_runs


def embedded_curves(page: str) -> list[dict[str, Any]]:
    found = re.search(r'<script type="application/json" id="curves">(.*?)</script>', page, re.DOTALL)
    assert found
    curves: list[dict[str, Any]] = json.loads(found[1])
    return curves


def test_the_page_has_the_curves_and_a_link_to_each_report_and_comparison_the_newest_first(tmp_path: Path) -> None:
    for name in ("1-old", "2-new"):
        write_run(tmp_path, name, facts=facts()).joinpath("report.html").write_text("")
    write_run(tmp_path, "3-running", epochs=0)
    comparison = write_run(tmp_path, "1-old-comparison")
    (comparison / "comparison.json").write_text("{}")
    (comparison / "comparison.html").write_text("")
    path = write_index(tmp_path)
    page = path.read_text()
    assert path == tmp_path / "index.html" and sorted(p.name for p in tmp_path.glob("*.tmp")) == []
    assert re.findall(r'href="(.*?)"', page) == [
        "2-new/report.html", "1-old/report.html", "1-old-comparison/comparison.html",
    ]  # fmt: skip
    assert "3-running" in page and "https:" not in page
    new, old = embedded_curves(page)
    assert (new["id"], old["id"]) == ("2-new", "1-old") and new["colour"] != old["colour"]
    assert new["series"]["loss"] == [[1, 1], [2, 0.5], [3, 0.33333]] and set(new["series"]) == {
        "validation_accuracy", "accuracy", "loss",
    }  # fmt: skip
    assert page.count('data-run="') == 2


def test_names_with_markup_are_shown_as_text(tmp_path: Path) -> None:
    name = "<b>&\"'"
    write_run(tmp_path, name, model="</script><script>alert(1)</script>", facts=facts()).joinpath(
        "report.html"
    ).write_text("")
    page = render_index(tmp_path)
    assert "<b>" not in page and "<script>alert" not in page and embedded_curves(page)[0]["id"] == name
    assert 'href="%3Cb%3E%26%22%27/report.html"' in page


def test_the_page_is_bounded_for_many_runs_and_long_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs_page, "MAX_CHARTED_RUNS", 3)
    monkeypatch.setattr(runs_page, "MAX_ROWS", 5)
    for number in range(8):
        write_run(tmp_path, f"run{number}", epochs=2)
    page = render_index(tmp_path)
    assert [curve["id"] for curve in embedded_curves(page)] == ["run7", "run6", "run5"]
    assert "8 runs" in page and "3 older runs are left out" in page and "run2" not in page
    assert "those of the newest 3 runs; 2 older runs have none here" in page
    points = read_series(write_run(tmp_path, "long", epochs=1999))["loss"]
    assert len(points) <= runs_page.MAX_POINTS + 1 and points[-1][0] == 1999


def test_values_that_are_not_finite_are_no_points(tmp_path: Path) -> None:
    folder = write_run(tmp_path, "a", epochs=0)
    (folder / "metrics.jsonl").write_text('{"epoch": 1, "epoch_ended": true, "loss": NaN, "accuracy": 0.5}\n{"ep')
    assert read_series(folder) == {"accuracy": [(1, 0.5)]}
    render_index(tmp_path)


def test_an_empty_folder_gives_an_empty_page(tmp_path: Path) -> None:
    assert "0 runs" in render_index(tmp_path)


def test_the_page_of_a_comparison_has_means_pictures_and_links_from_its_folder(tmp_path: Path) -> None:
    for pooling in ("max", "avg"):
        for seed in (0, 1):
            write_run(tmp_path, f"{pooling}{seed}", pooling=pooling, facts=facts(0.9 + 0.01 * seed)).joinpath(
                "report.html"
            ).write_text("")
    every = read_runs(tmp_path)
    groups = [Group(kind, tuple(run for run in every if run.pooling == kind)) for kind in ("max", "avg")]
    pictures = {
        name: [{"url": f"data:{name}", "caption": "14×14"}, {"url": f"data:{name}-last", "caption": "7×7"}]
        for name in ("input", "max", "avg")
    }
    page = render_comparison(Comparison("m: kinds of pooling", "python -m training", groups, 6, "pooling", pictures))
    assert "4 of 6 runs are finished" in page and page.count("90.50 ± 0.71") == 2
    assert 'href="../max0/report.html"' in page
    assert [curve["colour"] for curve in embedded_curves(page)] == ["#3b82f6"] * 2 + ["#f59e0b"] * 2
    assert re.findall(r'src="data:(.*?)"', page) == ["input", "max", "avg", "input-last", "max-last", "avg-last"]
    assert "trained with max pooling" in page
