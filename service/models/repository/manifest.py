"""manifest.json: what the training job says of a version, as far as the service reads it.

Not here: the other files of a version (version_files.py), the fit that manifest and graph record (fit_record.py).
"""

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from service.core.load_errors import FilesError


class Golden(BaseModel):
    """How far an answer may differ from its golden answer; the number of golden pictures, and the same for these."""

    tolerance: float
    pictures: int = 0
    picture_tolerance: float = 0.0


class ReportedMetrics(BaseModel):
    """Test-set metrics that the training job reported: ratios from 0 to 1; image counts by true and predicted class."""

    test_accuracy: float | None = None
    test_confidence: float | None = None
    confusion: list[list[int]] = []

    @property
    def shares(self) -> list[float]:
        """The share of each class among the predictions, from 0 to 1, by class id; empty if unknown."""
        columns = [sum(column) for column in zip(*self.confusion, strict=False)]
        return [column / sum(columns) for column in columns] if sum(columns) else []


class Manifest(BaseModel):
    """The fields of manifest.json that the service reads.

    A manifest with `labels`, the class names by class id, also has the SHA-256 of golden.npz, which repeats them; older
    manifests have neither. Manifests before schema 4 have no `fit` and no golden pictures.
    """

    model_config = ConfigDict(extra="ignore")

    model: str
    sha256: str  # of the graph
    golden_sha256: str = ""
    labels: tuple[str, ...] | None = None
    fit: dict[str, Any] | None = None
    golden: Golden
    metrics: ReportedMetrics = ReportedMetrics()

    @field_validator("labels")
    @classmethod
    def _can_be_sent(cls, labels: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for label in labels or ():
            label.encode()  # JSON may hold half of a surrogate pair, which no response and no metric can carry
        return labels


def parse_manifest(path: Path, content: bytes) -> Manifest:
    """The manifest in the content of the file `path`.

    Raises:
        FilesError: it is no JSON, or a field is missing or invalid.
    """
    try:
        return Manifest.model_validate(json.loads(content))
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, part['loc'])) or 'all'}: {part['msg']}" for part in error.errors())
        raise FilesError(f"{path} cannot be read: {wrong}") from error
    except (ValueError, RecursionError) as error:
        raise FilesError(f"{path} cannot be read: {error}") from error
