"""A section of the report, and what all sections are made from.

A section is drawn as well as it can be: what a network or a data set of unknown shape does not allow is said in one
line, and the other sections are drawn all the same.

Not here: the sections (sections/), their order and the page (page.py).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from training.evaluation.evaluate import Evaluation
from training.experiment import Experiment
from training.networks.classifier import Classifier
from training.networks.layers import LayerSummary, layer_summaries


class CannotDraw(Exception):
    """There is nothing to draw; the message says why."""


@dataclass(frozen=True)
class ReportInput:
    """What a report is made from."""

    experiment: Experiment
    model: Classifier
    evaluation: Evaluation
    metrics: Sequence[Mapping[str, Any]]  # the lines of metrics.jsonl
    facts: Mapping[str, Any]  # the manifest, or as much of it as is known without a published version
    version: Path | None  # the folder of the published version

    @property
    def names(self) -> tuple[str, ...]:
        """The class names by class id."""
        return self.experiment.dataset.label_names

    @cached_property
    def predicted(self) -> Tensor:
        """The predicted class of each test image (N,)."""
        return self.evaluation.probabilities.argmax(1)

    @cached_property
    def confidence(self) -> Tensor:
        """The probability of the predicted class of each test image (N,)."""
        return self.evaluation.probabilities.amax(1)

    @cached_property
    def example(self) -> int:
        """The index of the first test image that is classified correctly, or of the first one."""
        correct = (self.predicted == self.experiment.dataset.test.labels).nonzero()[:, 0]
        return int(correct[0]) if len(correct) else 0

    @cached_property
    def layers(self) -> list[LayerSummary]:
        """The network's layers, with their outputs for the example."""
        image = self.experiment.dataset.test.images[self.example : self.example + 1]
        return layer_summaries(self.model.body, self.model.normalize(image))


@dataclass(frozen=True)
class Section:
    """A section: its heading, its macro in sections.html.j2, and the values that the macro takes."""

    title: str
    macro: str
    content: Callable[[ReportInput], Mapping[str, Any]]
