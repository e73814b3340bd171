"""The page is written for a network and a data set of any shape; what cannot be drawn becomes a line that says why."""

import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.support import reports
from training.data.dataset import Split
from training.networks.pooling import Pooling
from training.publishing import export
from training.report import page
from training.report.section import ReportInput, Section

HEADINGS = [section.title for section in page.SECTIONS if section.title]
MAX_BYTES = 3_000_000


class Parsed(HTMLParser):
    """The tags of a page with their attributes, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def attributes(self, tag: str, name: str) -> list[str | None]:
        """The values of an attribute of all tags of a kind."""
        return [attributes.get(name) for kind, attributes in self.tags if kind == tag]


def render(report: ReportInput) -> str:
    """The page, which is no larger than it may be."""
    fields = (report.experiment, report.model, report.evaluation, report.metrics, report.facts, report.version)
    text = page.render(*fields)
    assert len(text.encode()) < MAX_BYTES
    assert re.findall("<h2>(.*?)</h2>", text) == HEADINGS
    return text


# --- networks ---


@pytest.mark.parametrize(
    ("build", "not_drawn"),
    [
        (reports.convolution, set()),
        (reports.nested, set()),
        (reports.mlp, {"No layer of the network has feature maps."}),
        (reports.Functional, {"No layer of the network has feature maps."}),
        (reports.Rows, {"No layer of the network has feature maps."}),
    ],
    ids=["convolution", "nested", "mlp", "functional", "recurrent"],
)
def test_the_page_of_a_network_of_any_shape_says_what_it_cannot_draw(
    monkeypatch: pytest.MonkeyPatch, build: Callable[[Pooling, int], nn.Module], not_drawn: set[str]
) -> None:
    text = render(reports.report_input(monkeypatch, build))
    assert "could not be drawn" not in text
    lines = re.findall('<p class="soft">((?:The network has no|No layer of).*?)</p>', text)
    assert set(lines) == not_drawn


def test_the_weights_of_a_network_without_convolution_are_shown_in_the_shape_of_the_image(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert "<code>Linear 64→20</code>: 20 filters of 8×8." in render(reports.report_input(monkeypatch, reports.mlp))


def test_a_section_that_fails_becomes_a_line_and_the_others_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: ReportInput) -> dict[str, str]:
        raise RuntimeError("a <tensor> of unknown shape")

    sections = [Section("Broken", "layers", fail) if one.title == "Layers" else one for one in page.SECTIONS]
    monkeypatch.setattr(page, "SECTIONS", sections)
    report = reports.report_input(monkeypatch, reports.convolution, metrics=[{"step": 1}])
    text = page.render(report.experiment, report.model, report.evaluation, report.metrics, report.facts)
    assert "could not be drawn: RuntimeError: a &lt;tensor&gt; of unknown shape" in text
    assert "The run has recorded no progress." in text
    assert "filters of 3×3" in text and "the 4 strongest" not in text and "feature map 3" in text


# --- data sets ---


def test_names_are_escaped_cut_off_and_complete_in_a_title(monkeypatch: pytest.MonkeyPatch) -> None:
    long, script = "a very long name " * 10, "<script>alert('&')</script>"
    parsed = Parsed(render(reports.report_input(monkeypatch, reports.convolution, names=(long, script, "\udcff"))))
    assert not [tag for tag, _ in parsed.tags if tag == "script"]
    assert {long, script, "?"} <= set(parsed.attributes("td", "title"))
    assert {long, script, "?"} <= set(parsed.attributes("figure", "title"))


def test_every_picture_has_a_text_for_those_who_cannot_see_it(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed = Parsed(render(reports.report_input(monkeypatch, reports.convolution)))
    assert parsed.attributes("img", "alt") and all(parsed.attributes("img", "alt"))
    assert len(parsed.attributes("svg", "aria-label")) == 5 and all(parsed.attributes("svg", "aria-label"))


class Constant(nn.Module):
    """Answers the same class for every image."""

    def __init__(self, class_id: int, classes: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.eye(classes)[class_id] * 9)

    def forward(self, x: Tensor) -> Tensor:
        return self.logits.expand(len(x), -1)


@pytest.mark.parametrize(("answer", "errors"), [(0, 0), (1, 6)])
def test_a_test_split_of_one_class_may_be_all_right_or_all_wrong(
    monkeypatch: pytest.MonkeyPatch, answer: int, errors: int
) -> None:
    images = torch.zeros(6, 8, 8, 1, dtype=torch.uint8)
    test = Split(images, torch.zeros(6, dtype=torch.long))
    text = render(reports.report_input(monkeypatch, lambda _, classes: Constant(answer, classes), test=test))
    assert f"{errors} of 6 test images are misclassified" in text
    assert text.count('<figure class="wrong"') == 2 * errors, "in the gallery of errors, and in that of all"
    assert "could not be drawn" not in text


def test_a_page_with_a_thousand_classes_lists_the_most_confused_pairs_and_the_lowest_recall(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = tuple(f"class {number}" for number in range(1000))
    test = reports.random_split(2000, (8, 8, 1), 1000)
    text = render(reports.report_input(monkeypatch, lambda _, classes: Constant(7, classes), names=names, test=test))
    assert "With 1,000 classes, the matrix is too large for a page." in text
    assert "The 30 of 1,000 classes with the lowest recall. Images to train on: 0 to 1 a class" in text
    assert text.count('<td class="text name" title="class 7">') == 30, "every pair ends in the class that is answered"
    assert "1,000 values, see manifest.json" in text


def test_a_page_of_large_photos_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    report = reports.report_input(
        monkeypatch, reports.photo_network, shape=(224, 224, 3), test=reports.random_split(20, (224, 224, 3), 10)
    )
    text = render(report)
    assert "could not be drawn" not in text and text.count("data:image/jpeg;base64,") > 60


# --- the run ---


def test_settings_are_those_that_were_used(monkeypatch: pytest.MonkeyPatch) -> None:
    text = render(reports.report_input(monkeypatch, reports.convolution, recipe="reference", pooling_window=3))
    rows = dict(re.findall(r"<tr><td>(\w+)</td><td><code>(.*?)</code></td></tr>", text))
    assert {name: rows[name] for name in ("model", "dataset", "name", "recipe", "epochs", "batch_size", "fit")} == {
        "model": "any", "dataset": "mnist", "name": "any", "recipe": "reference", "epochs": "3", "batch_size": "16",
        "fit": "drawing",
    }  # fmt: skip
    assert "<b>max, 3×3, stride 2</b>" in text
    assert "The recipe trains on the images as they are." in text


def test_the_page_says_which_run_of_which_date_it_shows_and_that_nothing_was_published(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text = render(reports.report_input(monkeypatch, reports.convolution))
    assert "not published · run a-run · 2026-11-29 12:00:00 UTC" in text and "The run published nothing." in text


def test_the_page_shows_version_size_and_speed_of_what_was_published(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    version = tmp_path / "any" / "4"
    version.mkdir(parents=True)
    (version / "model.onnx").write_bytes(bytes(1_500_000))
    (version / "manifest.json").write_text('{"sha256": "abc"}')
    monkeypatch.setattr(export, "runner", lambda _: lambda images: images)
    text = render(reports.report_input(monkeypatch, reports.convolution, version=version))
    assert "any, version 4 · run a-run" in text and "<td>1.50 MB</td>" in text
    assert len(re.findall(r"<td>speed, [^<]*</td><td>[\d,]+ images/s</td>", text)) == 2
    assert "&#34;sha256&#34;: &#34;abc&#34;" in text, "the manifest is the published one"


def test_figures_that_do_not_exist_are_dashes(monkeypatch: pytest.MonkeyPatch) -> None:
    report = reports.report_input(monkeypatch, lambda _, classes: Constant(0, classes))
    text = render(report)
    assert text.count("<td>–</td>") == 9, "no precision of the classes that are never answered"
