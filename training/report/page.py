"""The report, `report.html`: one file with curves, predictions, and what the network learned.

Charts are SVG and images are data URLs, so the page needs no network. A section that cannot be drawn becomes a line
that says why; the page is written in any case.

Not here: the sections (sections/), the figures (evaluation/, runs/), text and layout (*.html.j2).
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from training.evaluation.evaluate import Evaluation
from training.experiment import Experiment
from training.networks.classifier import Classifier
from training.report.section import CannotDraw, ReportInput, Section
from training.report.sections import learned, overview, results, samples

SECTIONS = (
    Section("", "key_facts", overview.key_facts),
    Section("Training images", "training_images", samples.training_images),
    Section("Augmented images", "augmented_images", samples.augmented_images),
    Section("Training curves", "training_curves", results.training_curves),
    Section("Predictions for test images", "predictions", samples.predictions),
    Section("Most confident errors", "errors", samples.errors),
    Section("Confusion matrix", "confusion", results.confusion),
    Section("Classes", "classes", results.classes),
    Section("Calibration", "calibration", results.calibration),
    Section("Robustness", "robustness", results.robustness),
    Section("Filters of the first layer", "filters", learned.filters),
    Section("Feature maps of one image", "feature_maps", learned.feature_maps),
    Section("Layers", "layers", learned.layers),
    Section("Published model", "published", overview.published),
    Section("Repeat this run", "repeat", overview.repeat),
)
# Characters of an error's text on the page.
MAX_REASON = 300


def render(
    experiment: Experiment,
    model: Classifier,
    evaluation: Evaluation,
    metrics: Sequence[Mapping[str, Any]],
    facts: Mapping[str, Any],
    version: Path | None = None,
) -> str:
    """The page.

    `metrics` are the lines of metrics.jsonl, `facts` those of the manifest; `version` is the folder of the published
    version, if one was published.
    """
    report = ReportInput(experiment, model, evaluation, metrics, facts, version)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    macros = environment.get_template("sections.html.j2").module
    page = environment.get_template("report.html.j2").render(
        title=f"{experiment.name}: {evaluation.accuracy:.2%} of {len(experiment.dataset.test):,} test images",
        sections=[(section.title, _draw(section, getattr(macros, section.macro), report)) for section in SECTIONS],
        large_images=max(experiment.dataset.image_shape[:2]) > 64,
    )
    return page.encode(errors="replace").decode()  # a name that is not UTF-8 on disk has surrogates


def _draw(section: Section, macro: Callable[..., str], report: ReportInput) -> Markup:
    """The section, or a line that says why it could not be drawn."""
    try:
        return Markup(macro(**section.content(report)))  # noqa: S704 # the macro has escaped its values
    except CannotDraw as error:
        reason = str(error)
    except Exception as error:  # noqa: BLE001 # whatever a network or data set of unknown shape raises
        reason = f"could not be drawn: {type(error).__name__}: {error}"[:MAX_REASON]
    return Markup('<p class="soft">{}</p>').format(reason)
