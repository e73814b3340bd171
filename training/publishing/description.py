"""What a graph's file says of itself, so that a copy without its folder is still known.

The description is an ONNX model without a graph: producer, version and metadata. Its bytes follow those of the exported
graph, because protobuf reads joined messages as one. So a published file begins with the very bytes that were proven,
and the same seed gives the same graph, although the description names the run.

Source: https://protobuf.dev/programming-guides/encoding/#last-one-wins
Not here: the fit in the graph's metadata (export.py), manifest.json (manifest.py), README.md (card.py).
"""

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import onnx

from training.strict_json import to_json

PREFIX = "simplecnn."
PRODUCER = "simplecnn"
# The keys of the metadata, each with the path of its value in the manifest. A value that is not known is left out.
FIELDS: Mapping[str, tuple[str, ...]] = {
    "name": ("model",),
    "version": ("version",),
    "labels": ("labels",),
    "network": ("network", "name"),
    "dataset": ("dataset", "name"),
    "dataset_sha256": ("dataset", "sha256"),
    "test_accuracy": ("metrics", "test_accuracy"),
    "run": ("run",),
    "created": ("created",),
    "commit": ("commit",),
    "code_license": ("license", "code"),
    "data_license": ("license", "data"),
}


def describe(graph: bytes, manifest: Mapping[str, Any]) -> bytes:
    """The graph's file: the graph, then its description from the manifest. Text stays as it is, the rest is JSON."""
    description = onnx.ModelProto(
        producer_name=PRODUCER,
        producer_version=version("simplecnn"),
        model_version=manifest["version"],
        doc_string=f"{manifest['model']}, version {manifest['version']}: images to class probabilities",
    )
    for key, path in FIELDS.items():
        value: Any = manifest
        for name in path:
            value = value.get(name) if isinstance(value, Mapping) else None
        if value is not None:
            text = value if isinstance(value, str) else to_json(value)
            description.metadata_props.add(key=f"{PREFIX}{key}", value=text)
    return graph + description.SerializeToString(deterministic=True)
