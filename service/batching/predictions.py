"""What a model version says, so that drift can be seen: how often each class, and how sure of it.

Owns the counts behind inference_predictions_total and inference_prediction_confidence. Only outputs with labels are
counted: without, nothing says that numbers are classes. What to compare them with is in the manifest (repository.py).
"""

import threading
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from service.batching.statistics import Histogram
from service.core.spec import ModelSpec

CONFIDENCE_BUCKETS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 0.999, 1.0)
# Every class is a time series a version; of outputs with more than so many none is counted.
MAX_COUNTED_CLASSES = 1000
# Answers are kept until there are so many rows: that takes 0.9 µs for an answer of one row, counting each at once 4.8.
TALLY_ROWS = 256


class Predictions:
    """Counts of one output's rows by the class with the highest value, and of these values. From any thread."""

    def __init__(self, output: int, labels: Sequence[str]) -> None:
        self.labels = labels
        self._output = output
        self._lock = threading.Lock()  # guards all below
        self._counts = np.zeros(len(labels), np.int64)
        self._confidence = Histogram(CONFIDENCE_BUCKETS)
        self._kept: list[NDArray[np.generic]] = []
        self._rows = 0

    def add(self, outputs: Sequence[NDArray[np.generic]], rows: int) -> None:
        """Count the first `rows` rows of a batch's outputs, which are left alone from now on."""
        values = outputs[self._output]
        if values.shape[1:] != (len(self.labels),):
            return  # a graph may give other shapes than its configuration says
        with self._lock:
            self._kept.append(values[:rows])
            self._rows += rows
            if self._rows >= TALLY_ROWS:
                self._tally()

    def read(self) -> tuple[Mapping[str, int], list[tuple[str, float]], float]:
        """Rows by label, and the confidence's cumulative buckets and sum."""
        with self._lock:
            self._tally()
            counts: Counter[str] = Counter()
            for label, count in zip(self.labels, self._counts.tolist(), strict=True):
                counts[label] += count  # labels need not be unique
            return counts, self._confidence.cumulative(), self._confidence.sum

    def _tally(self) -> None:
        if not self._kept:
            return
        values = np.concatenate(self._kept)
        self._kept.clear()
        self._rows = 0
        highest = values.max(1)
        known = np.isfinite(highest)  # one NaN would spoil the sum for good
        self._counts += np.bincount(values.argmax(1)[known], minlength=len(self.labels))
        self._confidence.observe(highest[known].tolist())


def predictions_for(spec: ModelSpec) -> Predictions | None:
    """What counts the answers of a version: of its first output that has labels and one float for each class."""
    for index, output in enumerate(spec.outputs):
        floats = output.data_type.dtype.kind == "f"
        if spec.batches and output.labels and floats and len(output.shape) == 1:
            classes = output.shape[0]
            if 0 < classes <= MAX_COUNTED_CLASSES:
                names = [*output.labels[:classes], *map(str, range(len(output.labels), classes))]
                return Predictions(index, names)
    return None
