"""The model card: README.md beside a version, in Hugging Face's format, written from the manifest alone.

It begins with YAML that the hub reads, and says what the model is, how to call it, what it was trained on, how good it
is and where its limits are. card.md.j2 has its text.

Format: https://huggingface.co/docs/hub/model-cards
Not here: the manifest's content (manifest.py), when the file is written (publish.py).
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2

TEMPLATE = Path(__file__).parent / "card.md.j2"
MAX_CLASSES = 100  # in the table; manifest.json has all
# The data sets' names on the hub.
HUB_DATASETS = {
    "mnist": "ylecun/mnist",
    "mnist-sample": "ylecun/mnist",
    "fashion-mnist": "zalando-datasets/fashion_mnist",
    "cifar10": "uoft-cs/cifar10",
}
MARKDOWN = "\\`*_{}[]<>#|~$&"


def render(manifest: Mapping[str, Any]) -> str:
    """The text of README.md for a version with this manifest."""
    environment = jinja2.Environment(  # noqa: S701 # the card is Markdown, whose escapes are _text()'s
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters.update(percent=_percent, text=_text)
    metrics, labels = manifest["metrics"], manifest["labels"]
    counts = [sum(row) for row in metrics["confusion"]]
    return environment.from_string(TEMPLATE.read_text()).render(
        manifest,
        front_matter=yaml(_front_matter(manifest)),
        shape="×".join(map(str, manifest["network"]["image_shape"])),
        dims=", ".join(map(str, manifest["network"]["image_shape"])),
        quantization=manifest.get("quantization"),
        classes=list(zip(labels, counts, metrics["precision"], metrics["recall"], strict=True))[:MAX_CLASSES],
    )


def yaml(content: Mapping[str, Any], indent: str = "") -> str:
    """The mapping as YAML; every text is quoted as in JSON, which is YAML."""
    lines = []
    for key, value in content.items():
        if isinstance(value, Mapping):
            lines += [f"{indent}{key}:", yaml(value, indent + "  ")]
        elif isinstance(value, list):
            lines.append(f"{indent}{key}:")
            for item in value:
                text = yaml(item, indent + "    ").lstrip() if isinstance(item, Mapping) else _scalar(item)
                lines.append(f"{indent}  - {text}")
        else:
            lines.append(f"{indent}{key}: {_scalar(value)}")
    return "\n".join(lines)


def _scalar(value: str | float) -> str:
    """A text or a number as YAML 1.1 reads it: not in JSON's escapes of two surrogates, nor with an exponent."""
    if isinstance(value, str):
        return json.dumps(
            "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in value), ensure_ascii=False
        )
    return f"{value:.5f}"


def _front_matter(manifest: Mapping[str, Any]) -> dict[str, Any]:
    data, metrics = manifest["dataset"]["name"], manifest["metrics"]
    found = [("accuracy", "test_accuracy"), ("expected_calibration_error", "calibration_error")]
    result = {
        "task": {"type": "image-classification"},
        "dataset": {"name": data, "type": HUB_DATASETS.get(data, "imagefolder"), "split": "test"},
        "metrics": [{"type": name, "value": metrics[key]} for name, key in found],
    }
    license_of_data = manifest["license"].get("data")
    return {
        **({"license": license_of_data.lower()} if license_of_data else {}),
        "library_name": "onnx",
        "pipeline_tag": "image-classification",
        "tags": ["onnx", "image-classification", manifest["network"]["name"]],
        **({"datasets": [HUB_DATASETS[data]]} if data in HUB_DATASETS else {}),
        "metrics": ["accuracy"],
        "model-index": [{"name": manifest["model"], "results": [result]}],
    }


def _percent(value: float | None, digits: int = 2) -> str:
    return "–" if value is None or not math.isfinite(value) else f"{100 * value:.{digits}f} %"


def _text(value: object) -> str:
    """A name as one line of Markdown, where it can be nothing but text."""
    return "".join(f"\\{c}" if c in MARKDOWN else c if c.isprintable() else " " for c in str(value))
