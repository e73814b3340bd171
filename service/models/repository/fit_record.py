"""The fit that a version records: how a picture becomes the kind of image that the model was trained on.

The training job writes the record into the manifest and into the graph's metadata, so that a graph that is copied
without its manifest still has it. Not here: what the methods do (service.pictures).
"""

import json
from collections.abc import Mapping
from pathlib import Path

from service.core.load_errors import FilesError
from service.models.repository.manifest import Manifest
from service.pictures.fit import Fit, UnknownFit

KEY = "simplecnn.fit"  # in the graph's metadata, where graphs of others may use any other key


def recorded_fit(folder: Path, manifest: Manifest | None, graph_metadata: Mapping[str, str]) -> Fit | None:
    """The fit that the manifest of the version in `folder` records, else its graph; None if neither does.

    Raises:
        FilesError: this service does not know the fit, or the manifest and the graph disagree.
    """
    in_manifest = _parse(folder / "manifest.json", manifest.fit if manifest else None)
    in_graph = _parse(f"the graph in {folder}", _graph_record(graph_metadata))
    if in_manifest and in_graph and in_manifest != in_graph:
        raise FilesError(
            f"{folder / 'manifest.json'} records the fit {in_manifest}, the graph the fit {in_graph}; publish it again"
        )
    return in_manifest or in_graph


def _graph_record(metadata: Mapping[str, str]) -> Mapping[str, object] | None:
    """The record in a graph's metadata; None for anything else that a stranger's graph may have under that key."""
    try:
        record = json.loads(metadata.get(KEY, ""))
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) and "method" in record else None


def _parse(where: Path | str, record: Mapping[str, object] | None) -> Fit | None:
    try:
        return None if record is None else Fit.from_record(record)
    except UnknownFit as error:
        raise FilesError(
            f"{where} records how pictures are fitted in a way that this service does not know: {error}; "
            "update the service"
        ) from error
