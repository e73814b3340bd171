"""Predicted classes and confidence of one model version, to detect drift.

Owns the counts behind inference_predictions_total and inference_prediction_confidence. Only an output with labels is
counted, because only labels show that its values are classes. Not here: the values of the test set to compare with
(ReportedMetrics in models/repository/manifest.py).
"""

import threading
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from service.batching.statistics import Histogram
from service.core.spec import ModelSpec

CONFIDENCE_BUCKETS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 0.999, 1.0)
# Each class of each version is a time series. An output with more classes is not counted at all.
MAX_COUNTED_CLASSES = 1000
# Rows to collect before counting them: 0.9 µs for an output of one row, where counting it at once takes 4.8 µs.
TALLY_ROWS = 256


class Predictions:
    """Counts of one output's rows by the class with the highest value, and a histogram of that value. Thread-safe."""

    def __init__(self, output: int, labels: Sequence[str]) -> None:
        self.labels = labels
        self._output = output
        self._lock = threading.Lock()  # guards all below
        self._counts = np.zeros(len(labels), np.int64)
        self._confidence = Histogram(CONFIDENCE_BUCKETS)
        self._uncounted: list[NDArray[np.generic]] = []
        self._uncounted_rows = 0

    def add(self, outputs: Sequence[NDArray[np.generic]], rows: int) -> None:
        """Count the first `rows` rows of a batch's outputs. The arrays must not change afterwards."""
        values = outputs[self._output]
        if values.shape[1:] != (len(self.labels),):
            return  # a graph may return other shapes than its configuration declares
        with self._lock:
            self._uncounted.append(values[:rows])
            self._uncounted_rows += rows
            if self._uncounted_rows >= TALLY_ROWS:
                self._tally()

    def read(self) -> tuple[Mapping[str, int], list[tuple[str, float]], float]:
        """Rows by label, and the cumulative buckets and the sum of the confidence histogram."""
        with self._lock:
            self._tally()
            counts: Counter[str] = Counter()
            for label, count in zip(self.labels, self._counts.tolist(), strict=True):
                counts[label] += count  # labels need not be unique
            return counts, self._confidence.cumulative(), self._confidence.sum

    def _tally(self) -> None:
        if not self._uncounted:
            return
        values = np.concatenate(self._uncounted)
        self._uncounted.clear()
        self._uncounted_rows = 0
        highest = values.max(1)
        finite = np.isfinite(highest)  # one NaN would make the sum NaN for good
        self._counts += np.bincount(values.argmax(1)[finite], minlength=len(self.labels))
        self._confidence.observe(highest[finite].tolist())


def predictions_for(spec: ModelSpec) -> Predictions | None:
    """Predictions for the first output that has labels and one float for each class; None if there is none."""
    for index, output in enumerate(spec.outputs):
        is_float = output.data_type.dtype.kind == "f"
        if spec.batches and output.labels and is_float and len(output.shape) == 1:
            classes = output.shape[0]
            if 0 < classes <= MAX_COUNTED_CLASSES:
                names = [*output.labels[:classes], *map(str, range(len(output.labels), classes))]
                return Predictions(index, names)
    return None
